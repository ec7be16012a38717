import pytest

from fmv.accounts.models import User
from fmv.accounts.sessions import Session
from tests.support.api import Api, assert_refused

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer x.y.z", "Bearer " + "x" * 5000, "Basic dTpw", "Bearer \xff"]
)
def test_no_token_is_trusted_yet(authorization):
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = Api(None)("POST", "/auth/login", headers=headers)
    assert_refused(answer, 401)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert not answer.cookies
    assert not User.objects.exists()


def test_a_trailing_slash_makes_no_difference():
    assert Api(None)("POST", "/auth/login/").status_code == 401
    assert Api(None)("POST", "/auth/logout/").status_code == 200


def test_signing_out_ends_the_session_and_deletes_its_cookie():
    api = Api("viewer")
    assert api("GET", "/robot/").status_code == 200
    cookie = api.client.cookies["sessionid"].value
    answer = api("POST", "/auth/logout")
    assert (answer.status_code, answer.content) == (200, b"{}")
    assert answer.cookies["sessionid"]["max-age"] == 0
    assert not Session.objects.exists()
    assert Api(None)("GET", "/robot/", headers={"Cookie": f"sessionid={cookie}"}).status_code == 401


def test_signing_out_without_a_session_does_no_harm():
    for headers in ({}, {"Cookie": "sessionid=no-such-session"}, {"Cookie": "sessionid=" + "x" * 5000}):
        assert Api(None)("POST", "/auth/logout", headers=headers).status_code == 200
    assert not Session.objects.exists()
