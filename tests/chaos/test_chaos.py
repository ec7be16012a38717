"""A short chaos run, and its judge, which must see every violation."""

import json
import os
import subprocess
import sys

import pytest

from fmv.devstack import stack
from tests.chaos.judge import SECOND, Kill, Record, check_history, judge, overlaps, read_runs
from tests.chaos.world import what_is_missing

KEYS = (
    "accepted success failure revoked unfinished overlaps doubled refused kills restarts "
    "recovery_p50_s recovery_p99_s seed"
)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(bool(what_is_missing()) and os.environ.get("CI") != "true", reason=what_is_missing())
def test_a_short_run_loses_and_doubles_nothing():
    command = [sys.executable, "-m", "tests.chaos", "--seed", "7", "--tasks", "80", "--kills", "6"]
    done = subprocess.run(command, cwd=stack.ROOT, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    figures = json.loads(done.stdout.splitlines()[-1])
    assert list(figures) == KEYS.split()
    assert (figures["unfinished"], figures["overlaps"], figures["doubled"]) == (0, 0, 0)
    assert figures["accepted"] == figures["success"] + figures["failure"] + figures["revoked"] >= 70
    assert (figures["kills"], figures["seed"]) == (6, 7)


@pytest.mark.parametrize("wrong", [["--tasks", "10"], ["--kills", "0"], ["--seed", "x"]])
def test_wrong_options_are_refused(wrong):
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *wrong], cwd=stack.ROOT, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"error:" in done.stderr


# --- The judge -------------------------------------------------------------------------------------------------------


def marks(*lines: str) -> list[str]:
    """Convert lines like "0 start 7 Bender t1 1", with times in seconds, to the marks of handlers."""
    found = []
    for line in lines:
        at, word, pid, robot, task, attempt = line.split()
        found.append(f"{int(float(at) * SECOND)} {word} {pid} {robot!r} {task} {attempt}")
    return found


def found_overlaps(*lines: str, lanes: int = 1, deaths: dict[int, float] | None = None) -> int:
    ends = {pid: int(at * SECOND) for pid, at in (deaths or {}).items()}
    return len(list(overlaps(read_runs(marks(*lines), ends), {"Bender": lanes})))


def test_runs_one_after_the_other_do_not_overlap():
    assert not found_overlaps("0 start 7 Bender t1 1", "1 end 7 Bender t1 1", "1 start 8 Bender t2 1")


def test_two_runs_on_one_lane_overlap():
    lines = "0 start 7 Bender t1 1", "1 start 8 Bender t2 1", "2 end 7 Bender t1 1", "3 end 8 Bender t2 1"
    assert found_overlaps(*lines) == 1
    assert not found_overlaps(*lines, lanes=2)


def test_two_attempts_of_one_task_overlap_however_many_lanes_there_are():
    assert found_overlaps("0 start 7 Bender t1 1", "1 start 8 Bender t1 2", "2 end 7 Bender t1 1", lanes=3) == 1


def test_a_run_without_an_end_lasts_until_its_process_dies():
    lines = "0 start 7 Bender t1 1", "2 start 8 Bender t1 2", "3 end 8 Bender t1 2"
    assert not found_overlaps(*lines, deaths={7: 1.5})
    assert found_overlaps(*lines, deaths={7: 2.5}) == 1
    assert found_overlaps(*lines) == 1  # no death was recorded: it may still run


def test_a_process_runs_one_attempt_at_a_time():
    assert not found_overlaps("0 start 7 Bender t1 1", "1 start 7 Bender t2 1", "2 end 7 Bender t2 1")


def a_task(*steps: tuple[str, int], **values: object) -> dict[str, object]:
    history = [{"status": status, "attempt": attempt} for status, attempt in (("QUEUED", 0), *steps)]
    status, attempt = steps[-1]
    return {
        "task_id": "t1", "labels": ["s1.0"], "status": status, "attempt": attempt, "history": history,
        "finished_at": 9 * SECOND, "error": None,
    } | values  # fmt: skip


DONE = marks("1 start 7 Bender t1 1", "2 end 7 Bender t1 1")


def verdict(*tasks: dict[str, object], lines: list[str] = DONE, **record: object):
    known = {
        "lanes": {"Bender": 1},
        "expected": {"s1.0": "SUCCESS"},
        "answered": {"s1.0": "t1"},
        "deaths": {7: 5 * SECOND},
    }
    record = Record(**known | record)
    return judge(record, list(tasks), read_runs(lines, record.deaths), int)


def test_a_task_that_went_well_passes():
    found = verdict(a_task(("STARTED", 1), ("SUCCESS", 1)))
    assert not found.failed
    assert found.figures["accepted"] == found.figures["success"] == 1


def test_an_accepted_task_that_is_gone_fails_the_run():
    assert "lost" in verdict(lines=[]).violations[0]


def test_an_unfinished_task_fails_the_run():
    assert verdict(a_task(("STARTED", 1), finished_at=None)).figures["unfinished"] == 1


def test_a_second_success_fails_the_run():
    found = verdict(a_task(("STARTED", 1), ("SUCCESS", 1), ("SUCCESS", 1)))
    assert found.failed
    assert found.figures["doubled"] == 1


@pytest.mark.parametrize(
    "steps",
    [
        [("STARTED", 1), ("SUCCESS", 1), ("STARTED", 2), ("SUCCESS", 2)],
        [("STARTED", 2), ("SUCCESS", 2)],
        [("REVOKED", 0), ("QUEUED", 0)],
    ],
    ids=["leaves an end", "skips an attempt", "comes back"],
)
def test_an_impossible_history_is_seen(steps):
    assert list(check_history(a_task(*steps)))


def test_a_success_without_a_pair_of_marks_fails_the_run():
    assert verdict(a_task(("STARTED", 1), ("SUCCESS", 1)), lines=DONE[:1]).failed


def test_an_unexpected_failure_fails_the_run():
    assert verdict(a_task(("STARTED", 1), ("FAILURE", 1))).failed


def test_a_task_that_runs_after_its_cancel_was_accepted_fails_the_run():
    lines = [*DONE, *marks("3 start 7 Bender t1 2")]
    task = a_task(("STARTED", 1), ("STARTED", 2), ("REVOKED", 2))
    taken = {"cancels": [("t1", 1, 202)], "cancel_attempts": {"t1"}}
    assert any("ran again" in text for text in verdict(task, lines=lines, **taken).violations)


def test_a_task_that_starts_on_a_disabled_robot_fails_the_run():
    disabled = [("Bender", -9 * SECOND, 9 * SECOND)]
    assert verdict(a_task(("STARTED", 1), ("SUCCESS", 1)), disabled=disabled).failed


def test_recovery_is_measured_from_the_kill_to_the_next_start_or_the_end():
    lines = marks("1 start 7 Bender t1 1", "4 start 8 Bender t1 2", "5 end 8 Bender t1 2")
    task = a_task(("STARTED", 1), ("RETRY", 1), ("STARTED", 2), ("SUCCESS", 2))
    cut_off = {"kills": [Kill(2 * SECOND, 7, "its process")], "deaths": {7: 2 * SECOND}}
    found = verdict(task, lines=lines, **cut_off)
    assert not found.failed
    assert (found.figures["recovery_p50_s"], found.figures["recovery_p99_s"]) == (2, 2)
    assert verdict(task, lines=lines[:1], **cut_off).waits[0].seconds == 7
