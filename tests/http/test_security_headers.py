import os
import re
from pathlib import Path

import pytest
import requests
from django.conf import settings as configured
from django.contrib.staticfiles import finders
from django.test import Client

from fmv.http.security_headers import ALWAYS, DATA
from tasks.models import Status
from tests.support.api import Api
from tests.support.factories import make_user


def assert_safe(headers):
    assert {name: headers.get(name) for name in ALWAYS} == ALWAYS
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "unsafe" not in headers["Content-Security-Policy"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/health"),
        ("GET", "/api/v1/robot/"),
        ("GET", "/api/v1/nope"),
        ("POST", "/api/v1/robot/"),
        ("GET", "/api/v1/openapi.json"),
        ("GET", "/api/v1/docs"),
        ("GET", "/livez"),
        ("GET", "/metrics"),
        ("GET", "/"),
        ("GET", "/nope"),
        ("GET", "/admin/login/"),
    ],
)
def test_every_answer_carries_them(method, path):
    assert_safe(Client().generic(method, path).headers)


def test_so_do_answers_that_no_view_gives():
    for headers in ({"Host": "evil.example"}, {"Transfer-Encoding": "chunked"}, {"Content-Length": "99999999"}):
        assert_safe(Api(None)("POST", "/robot/", headers=headers).headers)
    preflight = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    assert_safe(Api(None)("OPTIONS", "/robot/", headers=preflight).headers)


def test_so_does_what_the_web_server_refuses_by_itself(web):
    url = web(os.environ["FMV_BROKER_URL"])
    answer = requests.get(f"{url}/api/v1/robot/{'x' * 10_000}", timeout=10)
    assert answer.status_code == 414
    assert_safe(answer.headers)


def test_data_may_load_nothing_at_all():
    assert Api(None)("GET", "/health").headers["Content-Security-Policy"] == DATA


def test_browsers_are_held_to_https_where_clients_come_by_it(settings):
    assert "Strict-Transport-Security" not in Api(None)("GET", "/health").headers
    settings.SECURE_HSTS_SECONDS = 31_536_000
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    answer = Api(None)("GET", "/health", headers={"X-Forwarded-Proto": "https"})
    assert answer.headers["Strict-Transport-Security"].startswith("max-age=31536000")
    assert not configured.SECURE_SSL_REDIRECT  # FMV_HTTPS=0 in the tests


@pytest.mark.django_db
@pytest.mark.parametrize(
    "path", ["/api/v1/docs", "/admin/login/", "/admin/", "/admin/tasks/task/", "/admin/robots/robot/add/"]
)
def test_pages_hold_no_script_or_style_that_the_policy_would_stop(path):
    client = Client()
    client.force_login(make_user("manager", is_superuser=True))
    page = client.get(path, follow=True).content.decode()
    assert "<html" in page
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
    for attributes in re.findall(r"<script([^>]*)>", page):
        assert "src=" in attributes or 'type="application/json"' in attributes, attributes
    for address in re.findall(r"(?:src|href)=\"(https?:)?//", page):
        pytest.fail(f"loaded from elsewhere: {address}")


def test_the_script_of_the_docs_is_a_file_of_its_own():
    answer = Client().get("/api/v1/docs?script=")
    assert answer.headers["Content-Type"].startswith("application/javascript")
    assert b"SwaggerUIBundle" in answer.content


def test_every_status_has_its_colour_in_the_admins_style_sheet():
    css = Path(finders.find("fmv/admin.css")).read_text()
    badges = " ".join(re.findall(r"^\.fmv-badge(.*) { --hue", css, re.MULTILINE))
    assert set(Status.values) <= set(re.findall(r"\.status-(\w+)", badges))
