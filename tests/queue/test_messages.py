"""Messages that FMV puts together itself are Celery's own, and reach the broker as surely."""

import pytest
from kombu.transport.memory import Transport

from fmv.celery import app
from tasks.queue import messages
from tests.support.probes import bell_box


@pytest.fixture(autouse=True)
def bells():
    with bell_box() as taken:
        yield taken


def sent(name="tasks.run_next", *arguments, queue="work", **options):
    """Send it and return it as a worker gets it."""
    messages.send(name, arguments, queue=queue, confirm_timeout=0.25, **options)
    with app.connection_for_read() as broker:
        return broker.default_channel.basic_get(queue, no_ack=True)


def by_celery(*arguments, **options):
    app.send_task("tasks.run_next", arguments, queue="work", ignore_result=True, **options)
    with app.connection_for_read() as broker:
        return broker.default_channel.basic_get("work", no_ack=True)


def is_celery_s(message) -> bool:
    return "origin" in message.headers  # which the protocol does not ask for


def test_the_first_makes_the_connection_and_is_celery_s_own():
    assert is_celery_s(sent())
    assert not is_celery_s(sent())


@pytest.mark.parametrize("options", [{}, {"priority": 7}, {"expires": 60.0}])
def test_the_next_says_the_same(options):
    theirs, ours = by_celery("R2", **options), sent("tasks.run_next", "R2", **options)
    assert not is_celery_s(ours)
    assert ours.decode() == theirs.decode() == [["R2"], {}, messages.EMBED]
    own = {"id", "root_id", "expires"}
    for key in ours.headers.keys() - own:
        assert ours.headers[key] == theirs.headers[key], key
    assert {key for key in theirs.headers.keys() - ours.headers.keys() if theirs.headers[key]} == {"origin"}
    assert ours.headers["id"] == ours.headers["root_id"] == ours.properties["correlation_id"]
    for key in ("priority", "delivery_mode", "expiration"):
        assert ours.properties.get(key) == theirs.properties.get(key), key
    assert bool(ours.headers.get("expires")) == bool(theirs.headers["expires"])
    assert (ours.content_type, ours.content_encoding) == (theirs.content_type, theirs.content_encoding)


def test_when_the_connection_has_gone_it_comes_by_another(monkeypatch):
    monkeypatch.setattr(Transport, "recoverable_connection_errors", (ConnectionResetError,), raising=False)
    sent()

    def gone(*_, **__):
        raise ConnectionResetError

    with monkeypatch.context() as patched:
        patched.setattr(messages, "_publish", gone)
        message = sent("tasks.run_next", "R2")
    assert is_celery_s(message)
    assert message.decode()[0] == ["R2"]
    assert not is_celery_s(sent())


def test_each_goes_to_its_queue():
    sent()
    assert sent("tasks.work_on_bulks", queue="maintenance").headers["task"] == "tasks.work_on_bulks"
