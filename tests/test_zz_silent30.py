import os, socket, time
from urllib.parse import urlsplit
from tests.test_slow_clients import STALLED
def test_it(web, tmp_path):
    p = urlsplit(web(os.environ["FMV_BROKER_URL"]))
    a = socket.create_connection((p.hostname, p.port), timeout=45); a.sendall(STALLED)
    b = socket.create_connection((p.hostname, p.port), timeout=45); b.sendall(b"GET / HT")
    t = time.monotonic()
    print(a.makefile("rb").read()[:300], time.monotonic()-t)
    print(b.makefile("rb").read()[:300], time.monotonic()-t)
    for f in tmp_path.glob("*.log"): print(f.read_text()[-1500:])
