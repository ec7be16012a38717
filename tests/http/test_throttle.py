import datetime as dt
import os
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import pytest
import requests
from django.core.checks import run_checks
from django.test import Client, RequestFactory
from django.utils import timezone

from fmv.environment import Environment
from fmv.http import throttle
from fmv.http.client_address import client_address, network
from fmv.http.models import ThrottleWindow
from fmv.mongodb.counting import collection
from tasks.queue import periodic
from tests.support.api import Api, assert_refused
from tests.support.factories import PASSWORD, make_robot, make_user
from tests.support.probes import listening

pytestmark = pytest.mark.django_db


@pytest.fixture
def two_reads(settings):
    settings.ENVIRONMENT.throttle_read = "2/day"  # a window that hardly ends during a test


def statuses(api, times, method="GET", path="/robot/", **options):
    return [api(method, path, **options).status_code for _ in range(times)]


def test_off_it_costs_nothing():
    assert statuses(Api("viewer"), 5) == [200] * 5
    assert not ThrottleWindow.objects.exists()


def test_more_than_the_rate_is_refused_until_the_window_ends(two_reads):
    api = Api("viewer")
    assert statuses(api, 4) == [200, 200, 429, 429]
    answer = api("GET", "/robot/")
    assert_refused(answer, 429)
    assert 1 <= int(answer.headers["Retry-After"]) <= 86_400


def at(seconds: float):
    return patch.object(throttle, "stored_now", return_value=dt.datetime.fromtimestamp(seconds, dt.UTC))


def test_after_the_window_the_caller_may_go_on(settings):
    settings.ENVIRONMENT.throttle_read = "2/minute"
    api = Api("viewer")
    with at(1_000_000_060.5):  # windows begin at each full minute
        assert statuses(api, 3) == [200, 200, 429]
        assert api("GET", "/robot/").headers["Retry-After"] == "20"
    with at(1_000_000_079.999):
        assert api("GET", "/robot/").headers["Retry-After"] == "1"
    with at(1_000_000_080):
        assert statuses(api, 3) == [200, 200, 429]


def test_reads_and_writes_are_counted_apart(settings):
    settings.ENVIRONMENT.throttle_read, settings.ENVIRONMENT.throttle_write = "2/day", "1/day"
    make_robot(name="R2")
    api = Api("operator")
    assert statuses(api, 2, "POST", "/robot/R2/run") == [200, 429]
    assert [api(method, "/robot/").status_code for method in ("HEAD", "OPTIONS", "GET")] == [200, 200, 429]


def test_each_caller_has_a_window_of_his_own(two_reads, settings):
    settings.ENVIRONMENT.anonymous = "viewer"
    fry = make_user("viewer")
    assert statuses(Api(fry), 3) == [200, 200, 429]
    assert statuses(Api(fry), 1) == [429]  # another session of the same user
    assert statuses(Api("viewer"), 1) == [200]
    assert statuses(Api(None), 3) == [200, 200, 429]
    assert statuses(Api(None, REMOTE_ADDR="10.0.0.9"), 1) == [200]


def test_probes_document_and_health_are_free(two_reads):
    for path in ("/api/v1/health", "/api/v1/openapi.json", "/livez"):
        assert {Client().get(path).status_code for _ in range(3)} == {200}


def test_sign_in_is_not_free(settings):
    settings.ENVIRONMENT.throttle_write = "2/day"
    assert statuses(Api(None), 3, "POST", "/auth/logout") == [200, 200, 429]


BAD = {"Authorization": "Bearer fmv_bad"}


def test_who_is_refused_too_often_is_not_looked_up_again(settings):
    settings.ENVIRONMENT.throttle_write = "2/day"
    bad = Api(None, headers=BAD)
    assert statuses(bad, 2) == [401, 401]
    with listening() as commands:
        answer = bad("POST", "/robot/")
    assert_refused(answer, 429)
    assert 1 <= int(answer.headers["Retry-After"]) <= 86_400
    assert commands.sent == ["find fmv_throttlewindow"]
    assert statuses(Api(None), 1) == [429]
    assert statuses(Api(None), 1, "POST", "/auth/login") == [429]
    assert statuses(Api(None), 1, path="/health") == [200]
    assert statuses(Api(None, REMOTE_ADDR="10.0.0.9"), 1) == [401]


def test_what_a_role_does_not_allow_counts_too(settings):
    settings.ENVIRONMENT.throttle_write = "2/day"
    assert statuses(Api("viewer"), 3, "POST", "/robot/") == [403, 403, 429]


def test_who_is_let_in_is_not_counted_as_refused(settings):
    settings.ENVIRONMENT.throttle_write = "2/day"
    assert statuses(Api("viewer"), 5) == [200] * 5
    assert not ThrottleWindow.objects.exists()


def test_wrong_passwords_are_limited(settings):
    settings.ENVIRONMENT.throttle_write = "2/day"
    settings.STORAGES = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
    user = make_user("viewer", password="correct horse battery")

    def sign_in(password, **options):
        form = {"username": user.username, "password": password}
        return Client(**options).post("/admin/login/", form)

    assert [sign_in("correct horse battery").status_code for _ in range(3)] == [302] * 3
    assert [sign_in("wrong").status_code for _ in range(2)] == [200, 200]
    with listening() as commands:
        answer = sign_in("correct horse battery")
    assert answer.status_code == 429
    page, seconds = answer.content.decode(), int(answer.headers["Retry-After"])
    assert f"have failed. Try again in {seconds:,} seconds." in page
    assert page.startswith("<!DOCTYPE html>")
    assert commands.sent == ["find fmv_throttlewindow"]
    assert sign_in("correct horse battery", REMOTE_ADDR="10.0.0.9").status_code == 302
    assert Client().get("/admin/login/").status_code == 200


def test_off_refusals_are_not_counted():
    assert statuses(Api(None, headers=BAD), 6) == [401] * 6
    assert not ThrottleWindow.objects.exists()


def test_many_requests_at_once_are_counted_right(transactional_db, settings):
    settings.ENVIRONMENT.throttle_read = "10/day"
    fry = make_user("viewer")
    apis = [Api(fry) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = [status for each in pool.map(lambda api: statuses(api, 6), apis) for status in each]
    assert answers.count(200) == 10


def test_all_processes_count_together(web):
    url = web(os.environ["FMV_BROKER_URL"], FMV_WEB_PROCESSES="2", FMV_ANONYMOUS="viewer", FMV_THROTTLE_READ="20/day")
    with ThreadPoolExecutor(8) as pool:
        answers = [*pool.map(lambda _: requests.get(f"{url}/api/v1/robot/", timeout=10).status_code, range(40))]
    assert (answers.count(200), answers.count(429)) == (20, 20)


def test_it_is_one_round_trip(two_reads):
    viewer = Api("viewer")
    with listening() as commands:
        viewer("GET", "/handler/")
    assert [command for command in commands.sent if "throttle" in command] == ["findAndModify fmv_throttlewindow"]


def test_windows_that_are_over_are_forgotten(two_reads, trusted_clock):
    Api("viewer")("GET", "/robot/")
    collection(ThrottleWindow).insert_one({"_id": "old", "count": 1, "expires_at": timezone.now()})
    periodic.forget_runs()
    assert [window.count for window in ThrottleWindow.objects.all()] == [1]
    assert not ThrottleWindow.objects.filter(pk="old").exists()


@pytest.mark.parametrize("rate", ["x", "0/minute", "5", "5/", "5/week", "-1/minute", "5/minute ", "1.5/second", "5/s"])
def test_a_rate_that_is_none_stops_the_start(rate, monkeypatch):
    monkeypatch.setenv("FMV_THROTTLE_READ", rate)
    with pytest.raises(ValueError, match="600/minute"):
        Environment()


# --- Addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        (0, "1.2.3.4", "10.0.0.1"),  # nobody is believed
        (1, "1.2.3.4", "1.2.3.4"),
        (1, "6.6.6.6, 1.2.3.4", "1.2.3.4"),  # the first is the caller's own invention
        (2, "6.6.6.6, 1.2.3.4, 10.0.0.7", "1.2.3.4"),
        (2, "1.2.3.4", "1.2.3.4"),  # came by one proxy only
        (1, "", "10.0.0.1"),
        (1, "garbage", "10.0.0.1"),
        (1, "1.2.3.4, <script>", "10.0.0.1"),
        (1, "2001:db8::1", "2001:db8::1"),
        (1, " 1.2.3.4 ", "1.2.3.4"),
    ],
)
def test_only_what_our_proxies_added_counts(settings, proxies, forwarded, address):
    settings.ENVIRONMENT.trusted_proxies = proxies
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    assert client_address(RequestFactory(REMOTE_ADDR="10.0.0.1").get("/", headers=headers)) == address


def test_who_makes_up_addresses_gains_nothing(two_reads, settings):
    settings.ENVIRONMENT.anonymous, settings.ENVIRONMENT.trusted_proxies = "viewer", 1
    api = Api(None)
    made_up = [f"9.9.9.{number}, 1.2.3.4" for number in range(3)]
    answers = [api("GET", "/robot/", headers={"X-Forwarded-For": value}).status_code for value in made_up]
    assert answers == [200, 200, 429]


@pytest.mark.parametrize(
    ("address", "whom"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("-", "-"),
    ],
)
def test_an_ipv6_network_is_one_caller(address, whom):
    assert network(address) == whom


# --- Wrong passwords -------------------------------------------------------------------------------------------------


def sign_in(client, user, password="wrong"):
    return client.post("/admin/login/", {"username": user.username, "password": password}).status_code


def test_by_default_twenty_wrong_passwords_an_hour_are_tried_for_an_account_and_an_address():
    assert Environment().throttle_sign_in == "20/hour"
    fry, leela = make_user("operator"), make_user("operator")
    thief = Client(REMOTE_ADDR="10.6.6.6")
    assert [sign_in(thief, fry) for _ in range(22)] == [200] * 20 + [429] * 2
    assert sign_in(thief, fry, PASSWORD) == 429
    assert thief.post("/admin/login/", {"username": f" {fry.username} ", "password": PASSWORD}).status_code == 429
    assert sign_in(Client(REMOTE_ADDR="10.0.0.1"), fry, PASSWORD) == 302  # the operator elsewhere
    assert sign_in(thief, leela, PASSWORD) == 302  # another account
    assert sign_in(Client(REMOTE_ADDR="10.6.6.6"), fry, PASSWORD) == 429


def test_a_browser_that_has_signed_in_before_is_not_locked_out_by_others_at_its_address(settings):
    settings.ENVIRONMENT.throttle_sign_in = "3/day"
    fry, leela = make_user("operator"), make_user("operator")
    known, thief = Client(), Client()
    assert sign_in(known, fry, PASSWORD) == 302
    assert [sign_in(thief, fry) for _ in range(4)] == [200, 200, 200, 429]
    assert sign_in(known, fry, PASSWORD) == 302
    assert [sign_in(known, fry) for _ in range(4)] == [200, 200, 200, 429]  # but it may not guess either
    thief.cookies[throttle.KNOWN_BROWSER] = known.cookies[throttle.KNOWN_BROWSER].value + "x"
    assert sign_in(thief, fry) == 429
    assert [sign_in(known, leela) for _ in range(4)] == [200, 200, 200, 429]  # known for the one account only
    assert sign_in(Client(), leela) == 429


def test_the_limit_of_wrong_passwords_can_be_switched_off_which_the_deployment_check_reports(settings):
    assert not {message.id for message in run_checks(include_deployment_checks=True)} & {"fmv.W001"}
    settings.ENVIRONMENT.throttle_sign_in = ""
    assert "fmv.W001" in {message.id for message in run_checks(include_deployment_checks=True)}
    fry = make_user("operator")
    assert [sign_in(Client(), fry) for _ in range(25)] == [200] * 25
    assert not ThrottleWindow.objects.exists()
