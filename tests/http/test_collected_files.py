"""Static files in production: what collectstatic has collected, served with the settings of production."""

import os
import secrets
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
AGENT = ROOT / "robots" / "agent" / "fmv_agent.py"

#: the settings, with a directory of its own to collect into, which gunicorn would serve
COLLECT_AND_FETCH = """
import sys
from pathlib import Path
import django
from django.conf import settings
django.setup()
settings.STATIC_ROOT = Path(sys.argv[1])
from django.core.management import call_command
call_command("collectstatic", interactive=False, verbosity=0)
from django.test import Client
answer = Client().get("/static/agent/fmv_agent.py", secure=True, headers={"host": "fleet.example.org"})
assert answer.status_code == 200, answer.status_code
sys.stdout.buffer.write(b"".join(answer))
"""


def test_a_robot_fetches_the_agent_from_a_server_in_production(tmp_path):
    """The file, under the name that the documents and "Connect this robot" say, not only under one with a digest."""
    env = {name: value for name, value in os.environ.items() if name != "FMV_DEBUG"} | {
        "DJANGO_SETTINGS_MODULE": "fmv.settings",
        "FMV_SECRET_KEY": secrets.token_urlsafe(64),
        "FMV_ALLOWED_HOSTS": "fleet.example.org",
    }
    collected = tmp_path / "static"
    fetched = subprocess.run(
        [sys.executable, "-c", COLLECT_AND_FETCH, str(collected)], cwd=ROOT, env=env, check=True, capture_output=True
    )
    assert fetched.stdout == AGENT.read_bytes()
    assert (collected / "agent" / "fmv_agent.py").read_bytes() == AGENT.read_bytes()
