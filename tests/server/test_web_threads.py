"""Few threads of a web server's process work, and any number wait: for clients, or for the events of a stream."""

import socket
import threading
from concurrent.futures import Future

import pytest

from fmv.server.patience import PatientSocket, Threads, away, go_away
from tests.conftest import wait_until

PATIENCE = 10


@pytest.fixture
def one() -> Threads:
    return Threads(1)


def alive(pool: Threads) -> int:
    """Return how many threads there are, at work, at rest or waiting."""
    return sum(getattr(thread, "_target", None) == pool._run for thread in threading.enumerate())


def assert_works(pool: Threads) -> None:
    assert pool.submit(len, "four").result(PATIENCE) == 4


def assert_is_itself_again(pool: Threads, waited: Future[object]) -> None:
    waited.result(PATIENCE)
    for _ in range(3):  # who is one too many finds out after a job
        assert_works(pool)
    wait_until(lambda: alive(pool) <= 2)  # one of them rests
    together: list[int] = []

    def job() -> None:
        together.append(len(together))
        assert len(together) == 1
        threading.Event().wait(0.05)
        together.clear()

    for each in [pool.submit(job) for _ in range(5)]:
        each.result(PATIENCE)


def test_another_takes_over_from_a_thread_that_waits(one):
    over = threading.Event()

    def wait() -> bool:
        with away(), away():
            return over.wait(PATIENCE)

    waiting = [one.submit(wait) for _ in range(3)]
    assert_works(one)
    over.set()
    assert all(each.result(PATIENCE) for each in waiting)
    assert_is_itself_again(one, waiting[0])


def test_another_takes_over_for_good_from_a_thread_that_goes_on_with_waiting(one):
    over = threading.Event()

    def stream() -> bool:
        go_away()
        with away():
            pass  # a piece that its client takes late changes nothing
        go_away()
        return over.wait(PATIENCE)

    streams = [one.submit(stream) for _ in range(3)]
    assert_works(one)
    over.set()
    assert all(each.result(PATIENCE) for each in streams)
    assert_is_itself_again(one, streams[0])


def test_what_a_job_raises_is_its_result_and_ends_nothing(one):
    with pytest.raises(ZeroDivisionError):
        one.submit(lambda: 1 / 0).result(PATIENCE)
    with pytest.raises(SystemExit):
        one.submit(exit).result(PATIENCE)
    assert_works(one)


def test_a_thread_of_no_pool_waits_as_it_would():
    before = threading.active_count()
    go_away()
    with away():
        assert threading.active_count() == before


def test_nobody_waits_for_a_client_that_sends_late(one):
    ours, theirs = socket.socketpair()
    with PatientSocket.instead_of(ours) as patient, theirs:
        patient.setblocking(True)
        received = one.submit(patient.recv, 8)
        assert_works(one)
        theirs.sendall(b"late")
        assert received.result(PATIENCE) == b"late"
        assert_is_itself_again(one, received)


@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_nobody_waits_for_a_client_that_reads_late(one, timeout):
    ours, theirs = socket.socketpair()
    data = bytes(range(256)) * 40_000
    with PatientSocket.instead_of(ours) as patient, theirs:
        patient.settimeout(timeout)
        sent = one.submit(patient.sendall, data)
        assert_works(one)
        assert theirs.makefile("rb").read(len(data)) == data
        assert_is_itself_again(one, sent)


def test_nobody_waits_for_a_client_that_reads_a_file_late(one, tmp_path):
    ours, theirs = socket.socketpair()
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * 40_000)
    with PatientSocket.instead_of(ours) as patient, theirs, path.open("rb") as file:
        patient.setblocking(True)
        sent = one.submit(patient.sendfile, file)
        assert_works(one)
        assert theirs.makefile("rb").read(path.stat().st_size) == path.read_bytes()
        assert_is_itself_again(one, sent)
