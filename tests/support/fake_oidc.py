"""OpenID Connect issuers on loopback whose answers and keys the test chooses."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

RSA_KEYS = [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2)]
EC_KEY = ec.generate_private_key(ec.SECP256R1())
WELL_KNOWN = "/.well-known/openid-configuration"


def public(key: Any, kid: str) -> dict[str, Any]:
    """Return the key as an issuer publishes it."""
    algorithm: Any = ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else RSAAlgorithm
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}


class Issuer:
    """Signs tokens and publishes keys. Fields are changed by the test, between requests or during one."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.keys = [public(RSA_KEYS[0], "first"), public(EC_KEY, "curve")]
        self.answers: dict[str, Any] = {}  # what to answer instead, by path: JSON, or bytes
        self.status = 200
        self.statuses: dict[str, int] = {}  # others, by path
        self.delay = 0.0  # seconds before each answer
        self.drip = 0.0  # seconds before each byte of it
        self.requests: list[str] = []
        self.forms: list[dict[str, str]] = []  # that were posted
        self.authorizations: list[str | None] = []  # headers of those

    def answer(self, path: str) -> bytes:
        endpoints = {f"{name}_endpoint": f"{self.url}/{name}" for name in ("authorization", "token", "end_session")}
        document = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks", **endpoints}
        answer = ({WELL_KNOWN: document, "/jwks": {"keys": self.keys}} | self.answers)[path]
        return answer if isinstance(answer, bytes) else orjson.dumps(answer)

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return the claims of a good token; a change to None leaves one out."""
        now = int(time.time())
        claims = {"iss": self.url, "aud": "fmv", "sub": "leela", "iat": now, "exp": now + 300, "fmv_role": "viewer"}
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def token(self, *, key: Any = RSA_KEYS[0], alg: str = "RS256", header: Any = None, **changes: Any) -> str:
        """Return a token, good but for what is changed."""
        headers = {"kid": "first"} | (header or {})
        if headers["kid"] is None:
            del headers["kid"]
        return jwt.encode(self.claims(**changes), key, alg, headers=headers)


@contextmanager
def running(issuer: Issuer) -> Iterator[Issuer]:
    """Answer at the issuer's address; afterwards nobody does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.requests.append(self.path)
            body = issuer.answer(self.path)
            time.sleep(issuer.delay)
            try:
                self.send_response(issuer.statuses.get(self.path, issuer.status))
                self.send_header("Location", f"{issuer.url}/elsewhere")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                for part in [body] if not issuer.drip else [body[i : i + 1] for i in range(len(body))]:
                    time.sleep(issuer.drip)
                    self.wfile.write(part)
            except OSError:
                return  # nobody waits any more

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            issuer.forms.append(dict(parse_qsl(body)))
            issuer.authorizations.append(self.headers["Authorization"])
            self.do_GET()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False  # one may be dripping

    server = Server(("127.0.0.1", int(issuer.url.rpartition(":")[2])), Handler)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
