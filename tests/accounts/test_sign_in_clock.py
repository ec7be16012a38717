"""Sessions and API tokens end by MongoDB's clock, whatever the wall clock of a web server says."""

import datetime as dt
from unittest.mock import patch

import pytest
from django.utils import timezone

from fmv.accounts.sessions import Session, SessionStore
from fmv.mongodb import server
from fmv.mongodb.server import server_now
from tests.support.api import Api
from tests.support.clocks import ShiftedClock
from tests.support.factories import make_token, make_user

pytestmark = pytest.mark.django_db(transaction=True)

HOURS = [2, -2, 25, -25]


@pytest.fixture(params=HOURS)
def wrong_wall_clock(request):
    """What Django takes for the present is wrong."""
    wrong = timezone.now() + dt.timedelta(hours=request.param)
    with patch("django.utils.timezone.now", return_value=wrong):
        yield


def test_a_session_is_valid_for_its_time_on_a_web_server_whose_clock_is_wrong(wrong_wall_clock):
    store = SessionStore()
    store["a"] = 1
    store.save()
    ends = Session.objects.get().expire_date
    assert abs(ends - server_now() - dt.timedelta(hours=12)) < dt.timedelta(minutes=1)
    assert SessionStore(store.session_key)["a"] == 1


def test_a_token_is_valid_for_its_time_on_a_web_server_whose_clock_is_wrong(wrong_wall_clock):
    token = make_token("viewer", days=1)
    assert abs(token.expires_at - server_now() - dt.timedelta(days=1)) < dt.timedelta(minutes=1)
    assert Api(None)("GET", "/handler/", headers={"Authorization": f"Bearer {token.text}"}).status_code == 200


@pytest.mark.clocks
def test_a_session_and_a_token_are_over_when_mongodbs_clock_says_so(mongodb_clock: ShiftedClock):
    api, token = Api(make_user("viewer")), make_token("viewer", days=1)
    bearer = {"Authorization": f"Bearer {token.text}"}
    assert api("GET", "/handler/").status_code == 200
    mongodb_clock.shift(hours=24 * 15)
    server.clock.read()
    assert api("GET", "/handler/").status_code == 401
    assert Api(None)("GET", "/handler/", headers=bearer).status_code == 401
