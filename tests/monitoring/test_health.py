import requests

from tests.support.api import Api


def test_it_answers_without_asking_the_database():
    answer = Api(None)("GET", "/health")  # this test has no database
    assert answer.status_code == 200
    assert answer.content == b'{"health":"OK"}'
    assert answer.headers["Content-Type"] == "application/json"


def test_a_trailing_slash_makes_no_difference():
    assert Api(None)("GET", "/health/").content == b'{"health":"OK"}'


def test_head_answers_without_a_body():
    answer = Api(None)("HEAD", "/health")
    assert (answer.status_code, answer.content) == (200, b"")


def test_a_cookie_does_not_matter():
    assert Api(None)("GET", "/health", headers={"Cookie": "sessionid=abc"}).status_code == 200


def test_livez_answers_without_asking_the_database(client):
    assert client.get("/livez").content == b"OK"


def test_readyz_answers_for_mongodb_and_the_broker(web, broker_url):
    answer = requests.get(f"{web(broker_url)}/readyz", timeout=10)
    assert (answer.status_code, answer.text) == (200, "mongodb: OK\nbroker: OK\n")
