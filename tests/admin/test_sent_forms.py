"""What the server keeps of forms that a browser sends: pages in the session, but no secrets."""

import pytest
from django.test import Client

from fmv.accounts.models import User
from fmv.accounts.permissions import Role
from fmv.accounts.sessions import Session
from fmv.http.sent_forms import MAX_ANSWERS, MAX_SIZE
from tasks.models import Task
from tests.support.factories import PASSWORD, make_robot, make_user
from tests.support.pages import admin, robot_url, text

pytestmark = pytest.mark.django_db(transaction=True)

BROWSER = {"Accept": "text/html,*/*", "Origin": "http://testserver"}


def refused(client, value="-1"):
    """Send a form that is refused and return the address of the answer."""
    url = f"{robot_url('R2', 'run')}?handler=wait"
    answer = client.post(url, {"params.seconds": value}, headers=BROWSER)
    return answer.headers["Location"] if answer.status_code == 302 else ""


def kept(client):
    return client.session.get("answers", {})


@pytest.fixture
def client():
    make_robot(name="R2")
    return admin(Role.OPERATOR)


def test_a_session_keeps_a_few_answers_and_only_for_its_user(client):
    addresses = [refused(client, f"-{number}") for number in range(1, MAX_ANSWERS + 3)]
    assert len(kept(client)) == MAX_ANSWERS
    assert 'value="-5"' in text(client.get(addresses[-1], headers=BROWSER))
    gone = client.get(addresses[0], headers=BROWSER)
    assert gone.status_code == 302
    assert "answer" not in gone.headers["Location"]
    other = admin(Role.OPERATOR).get(addresses[-1], headers=BROWSER)
    assert 'value="-5"' not in other.content.decode()


def test_an_answer_is_not_cached_and_is_forgotten_when_the_form_is_accepted(client):
    address = refused(client)
    assert "no-store" in client.get(address, headers=BROWSER).headers["Cache-Control"]
    assert client.post(address, {"params.seconds": "1"}, headers=BROWSER).status_code == 302
    assert Task.objects.count() == 1
    assert not kept(client)


def test_an_answer_that_is_too_large_for_the_session_is_the_answer_itself(client):
    assert refused(client, "x" * MAX_SIZE) == ""
    assert not kept(client)


def test_a_program_gets_its_answer_without_a_redirect(client):
    answer = client.post(f"{robot_url('R2', 'run')}?handler=wait", {"params.seconds": "-1"})
    assert "greater than or equal to 0" in text(answer)
    assert not kept(client)


def test_the_page_with_a_new_secret_is_never_stored():
    make_robot(name="R2")
    client = admin(Role.MANAGER)
    for url, form in (
        ("/admin/fmv/apitoken/add/", {"name": "gateway", "days": "1"}),
        (robot_url("R2", "connect"), {"days": "1"}),
    ):
        answer = client.post(url, form, headers=BROWSER)
        assert 'value="fmv_' in text(answer)
        assert not kept(client)


def test_passwords_are_not_kept_when_the_session_ends():
    client = admin(Role.MANAGER, is_superuser=True)
    Session.objects.all().delete()
    form = {"username": "kif", "password1": "secret 1", "password2": "secret 2", "role": "viewer"}
    answer = client.post("/admin/fmv/user/add/", form, headers=BROWSER)
    page = answer.content.decode()
    assert answer.status_code == 403
    assert "kif" in page
    assert "secret" not in page
    assert not User.objects.filter(username="kif").exists()


@pytest.mark.parametrize("kept", ["[" * 100_000, '[["a", "\\ud800"]]', "[[1]]", "{}", "1", "no JSON", "NaN"])
def test_a_forged_form_beside_a_sign_in_is_none(client, kept):
    make_user(username="fry")
    anonymous = Client(raise_request_exception=False)
    form = {"username": "fry", "kept": kept, "next": "/admin/robots/robot/add/"}
    assert anonymous.post("/admin/login/", form | {"password": "wrong"}, headers=BROWSER).status_code == 200
    answer = anonymous.post("/admin/login/", form | {"password": PASSWORD}, headers=BROWSER)
    assert "Send the form</button>" in text(anonymous.get(answer.headers["Location"], headers=BROWSER))
