""" "Connect this robot": the page that makes the token of a robot's agent."""

import html
import re

import pytest
from django.test import Client

from fmv.accounts import api_tokens
from fmv.accounts.models import ApiToken
from fmv.audit.models import AuditEntry
from robots import agents
from robots.models import RobotState
from tests.support.factories import make_robot, make_token, make_user

pytestmark = pytest.mark.django_db

ROBOT = "/admin/robots/robot/R2/"
CONNECT = f"{ROBOT}connect/"
SECRET = re.compile("fmv_[0-9a-f]{64}")


def staff(role):
    client = Client()
    client.force_login(make_user(role, username=role, password=None))
    return client


@pytest.fixture
def client():
    make_robot(name="R2")
    return staff("manager")


def create(client, **fields):
    return client.post(CONNECT, {"days": "7"} | fields)


def secret_in(answer):
    [secret] = set(SECRET.findall(answer.content.decode()))
    return secret


def connection(client, token=None):
    query = {"token": token.short_id} if token else {}
    answer = client.get(f"{ROBOT}connection/", query)
    assert answer.status_code == 200
    [said] = re.findall(
        r'<p class="fmv-now" role="status"><span class="fmv-badge [a-z-]+">(.+?)</span>', answer.content.decode()
    )
    return said, answer.headers["X-Live"]


def test_a_manager_makes_a_token_and_sees_it_once_with_the_commands_that_start_the_agent(client):
    assert b"No token yet" in client.get(CONNECT).content
    answer = create(client)
    assert api_tokens.sign_in(secret_in(answer)).robot == "R2"
    [commands] = re.findall("<pre [^>]+>(.+?)</pre>", answer.content.decode(), re.DOTALL)
    assert commands.splitlines() == [
        "curl -fO http://testserver/static/agent/fmv_agent.py",
        "python3 fmv_agent.py http://testserver",
    ]
    assert "no-store" in answer.headers["Cache-Control"]
    token = ApiToken.objects.get()
    assert (token.user, (token.expires_at - token.created_at).days) == (None, 7)
    again = client.get(CONNECT).content.decode()
    assert not SECRET.search(again)
    assert token.short_id in again
    [entry] = AuditEntry.objects.filter(action="token.create")
    assert (entry.by, entry.key, entry.text.partition(", until")[0]) == (
        "manager",
        token.short_id,
        "agent, of robot R2",
    )


def test_the_form_suggests_the_longest_life_of_a_token(client, settings):
    settings.ENVIRONMENT.token_max_days = 100
    assert b'value="100"' in client.get(CONNECT).content


@pytest.mark.parametrize(
    ("days", "reason"), [("367", "at most 366 days"), ("0", "at most"), ("nan", "Enter a number"), ("", "required")]
)
def test_what_is_refused_is_said_in_the_form(client, days, reason):
    answer = create(client, days=days)
    assert reason in html.unescape(answer.content.decode())
    assert not ApiToken.objects.exists()


def test_a_third_token_is_refused_until_one_is_revoked(client):
    first = make_token(robot="R2")
    create(client)
    answer = create(client)
    assert "revoke one of them first" in answer.content.decode()
    assert not SECRET.search(answer.content.decode())
    assert "is revoked" in client.post(CONNECT, {"revoke": first.short_id}, follow=True).content.decode()
    assert ApiToken.objects.get(pk=first.pk).state == "revoked"
    assert secret_in(create(client))


def test_it_revokes_tokens_of_this_robot_only(client):
    other, users = make_token(robot="C3"), make_token()
    for token in (other, users):
        client.post(CONNECT, {"revoke": token.short_id})
    client.post(CONNECT, {"revoke": ""})
    assert {token.state for token in ApiToken.objects.all()} == {"usable"}


def test_the_page_goes_green_when_the_robot_has_reported_with_the_new_token(client):
    session = agents.open_session("R2", agent="old", boot_id="1")
    agents.report("R2", session.id, {})
    assert connection(client) == ("online", "goes on")
    token = ApiToken.objects.get(digest=api_tokens.digest_of(secret_in(create(client))))
    assert connection(client, token) == ("waiting", "goes on")
    RobotState.objects.all().delete()
    ApiToken.objects.filter(pk=token.pk).used(token.created_at)
    assert connection(client, token) == ("signed in", "goes on")
    session = agents.open_session("R2", agent="droid", version="7", boot_id="2", handlers=["drive", "dock"])
    assert connection(client, token) == ("signed in", "goes on")
    agents.report("R2", session.id, {})
    assert connection(client, token) == ("connected", "done")
    content = client.get(f"{ROBOT}connection/?token={token.short_id}").content.decode()
    assert "droid 7" in content
    assert "dock, drive" in content
    agents.report("R2", agents.open_session("R2", boot_id="3").id, {})  # as it comes, without a skill
    content = client.get(f"{ROBOT}connection/?token={token.short_id}").content.decode()
    assert '<a href="/static/agent/README.md">give it skills</a>' in content


def test_without_a_new_token_the_page_shows_whether_the_agent_is_online(client):
    assert connection(client) == ("no agent", "goes on")
    session = agents.open_session("R2", boot_id="1")
    assert connection(client) == ("online", "goes on")
    agents.close_session("R2", session.id)
    assert connection(client) == ("offline", "goes on")
    assert connection(client, make_token(robot="C3")) == ("offline", "goes on")  # the token of another robot


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("operator", 403), ("", 302)])
def test_only_managers_connect_a_robot(client, role, status):
    token = make_token(robot="R2")
    other = staff(role or "")
    assert other.get(CONNECT).status_code == status
    assert other.get(f"{ROBOT}connection/").status_code == status
    assert other.post(CONNECT, {"days": "7"}).status_code == status
    assert other.post(CONNECT, {"revoke": token.short_id}).status_code == status
    assert ApiToken.objects.get() == token
    assert ApiToken.objects.get().state == "usable"
    if role:
        assert b"Connect this robot" not in other.get(f"{ROBOT}change/").content
    assert b"Connect this robot" in client.get(f"{ROBOT}change/").content


def test_a_robot_that_is_gone_is_not_connected(client):
    answer = client.post("/admin/robots/robot/Nobody/connect/", {"days": "7"}, follow=True)
    assert b"There is no robot Nobody." in answer.content
    assert client.get("/admin/robots/robot/Nobody/connection/").status_code == 404
    assert not ApiToken.objects.exists()


def test_a_robots_token_is_shown_with_its_robot_in_the_list_of_tokens(client):
    make_token(robot="R2")
    root = Client()
    root.force_login(make_user("", username="root", is_superuser=True, password=None))
    assert b"robot R2" in root.get("/admin/fmv/apitoken/").content
    assert b"robot R2" not in client.get("/admin/fmv/apitoken/").content
