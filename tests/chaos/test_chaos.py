"""A short chaos run, and its judge, which must see every violation."""

import json
import os
import subprocess
import sys

import pytest

from fmv.devstack import stack
from tests.chaos.judge import MUST_BE_0, SECOND, Freeze, Kill, Record, check_history, judge, overlaps, read_runs
from tests.chaos.world import what_is_missing

KEYS = (
    "accepted success failure revoked unfinished overlaps doubled out_of_order mixed on_robots freezes refused kills "
    "restarts recovery_p50_s recovery_p99_s seed"
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
    assert [figures[name] for name in MUST_BE_0] == [0, 0, 0, 0]
    assert min(figures["mixed"], figures["on_robots"], figures["freezes"]) > 0  # there was something to judge
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
        at, word, pid, robot, *rest = line.split()
        found.append(f"{int(float(at) * SECOND)} {word} {pid} {robot!r} {' '.join(rest)}")
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
    history = [
        {"status": status, "attempt": attempt, "at": at * SECOND}
        for at, (status, attempt) in enumerate((("QUEUED", 0), *steps))
    ]
    status, attempt = steps[-1]
    return {
        "task_id": "t1", "labels": ["s1.0"], "status": status, "attempt": attempt, "history": history,
        "finished_at": 9 * SECOND, "error": None, "robot": "Bender", "priority": 0, "handler": "mark",
        "runs_on": "worker", "params": {},
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
    return judge(record, list(tasks), read_runs(lines, record.deaths, record.agents), int)


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


@pytest.mark.parametrize(("note", "number"), [("the robot was heard: its lane is free", 0), ("again", 1)])
def test_a_task_may_keep_its_lane_until_its_robot_is_heard_and_ends_once(note, number):
    task = on_robot(("STARTED", 1), ("REVOKED", 1), ("REVOKED", 1))
    task["history"][-1]["note"] = note
    assert len(list(check_history(task))) == number


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


# --- The judge of agents ---------------------------------------------------------------------------------------------


def on_robot(*steps: tuple[str, int], **values: object) -> dict[str, object]:
    values = {"handler": "robot.mark", "runs_on": "robot"} | values
    return a_task(*(steps or (("STARTED", 1), ("SUCCESS", 1))), **values)


def walk(lines: tuple[str, ...], steps: int = 3, **record: object):
    agents = dict.fromkeys((7, 8), "Bender")
    return verdict(
        on_robot(handler="robot.walk", params={"steps": steps}), lines=marks(*lines), agents=agents, **record
    )


def test_a_task_that_went_well_on_its_robot_passes():
    assert not verdict(on_robot(), agents={7: "Bender"}).failed


@pytest.mark.parametrize(
    ("task", "agents"),
    [(on_robot(), {}), (on_robot(), {7: "Fry"}), (a_task(("STARTED", 1), ("SUCCESS", 1)), {7: "Bender"})],
    ids=["in a worker", "in another robot's agent", "a worker's task in an agent"],
)
def test_a_task_that_runs_in_the_wrong_place_fails_the_run(task, agents):
    assert any(" ran in " in text for text in verdict(task, agents=agents).violations)


def test_an_agent_runs_as_many_attempts_at_a_time_as_it_has_lanes():
    lines = "0 start 7 Bender t1 1", "1 start 7 Bender t2 1", "2 end 7 Bender t1 1", "3 end 7 Bender t2 1"
    runs = read_runs(marks(*lines), {}, {7})
    assert all(run.complete for run in runs)
    assert len(list(overlaps(runs, {"Bender": 1}))) == 1
    assert not list(overlaps(runs, {"Bender": 2}))


def test_an_attempt_that_runs_twice_fails_the_run():
    lines = [*DONE, *marks("3 start 8 Bender t1 1", "4 end 8 Bender t1 1")]
    found = verdict(on_robot(), lines=lines, agents={7: "Bender", 8: "Bender"})
    assert found.failed
    assert found.figures["doubled"] == 1


DIES = "1 start 7 Bender t1 1", "1 step 7 Bender t1 1 0", "2 step 7 Bender t1 1 1"


@pytest.mark.parametrize("first", [1, 2])
def test_an_attempt_may_go_on_after_the_death_of_its_process_and_repeat_the_step_that_it_was_at(first):
    steps = [f"6 step 8 Bender t1 1 {number}" for number in range(first, 3)]
    assert not walk((*DIES, "6 start 8 Bender t1 1", *steps, "7 end 8 Bender t1 1")).failed


@pytest.mark.parametrize(
    "then",
    [
        ("6 start 8 Bender t1 1", "6 step 8 Bender t1 1 0", "7 end 8 Bender t1 1"),
        ("6 start 8 Bender t1 1", "7 end 8 Bender t1 1"),
        ("3 stopped 7 Bender t1 1", "6 start 7 Bender t1 1", "6 step 7 Bender t1 1 2", "7 end 7 Bender t1 1"),
    ],
    ids=["begins anew", "leaves steps out", "goes on in the same process"],
)
def test_an_attempt_that_takes_other_steps_fails_the_run(then):
    assert walk((*DIES, *then)).figures["doubled"]


FROZEN = {"freezes": [Freeze(7, 2 * SECOND, 4 * SECOND)], "agents": {7: "Bender", 8: "Bender"}, "deaths": {}}
TWO = {"expected": {"s1.0": "SUCCESS", "s2.0": "SUCCESS"}, "answered": {}}


@pytest.mark.parametrize(
    ("last", "handler", "number"),
    [("5 stopped", "robot.careful", 0), ("5 end", "robot.careful", 1), ("7 stopped", "robot.careful", 1),
     ("5 stopped", "robot.mark", 1)],
    ids=["gives up", "goes on", "gives up late", "was to keep its lane"],
)  # fmt: skip
def test_a_frozen_robot_may_lose_its_lane_if_it_gives_up_when_it_is_thawed(last, handler, number):
    at, word = last.split()
    lines = "1 start 7 Bender t1 1", "3 start 9 Bender t2 1", f"{at} {word} 7 Bender t1 1", "8 end 9 Bender t2 1"
    other = a_task(("STARTED", 1), ("SUCCESS", 1), task_id="t2", labels=["s2.0"])
    mine = on_robot(("STARTED", 1), ("RETRY", 1), handler=handler, finished_at=None)
    assert verdict(mine, other, lines=marks(*lines), **FROZEN | TWO).figures["overlaps"] == number


def queued(name: str, since: int, until: int, **values: object) -> dict[str, object]:
    history = [("QUEUED", 0, since), ("STARTED", 1, until), ("SUCCESS", 1, until + 1)]
    steps = [{"status": status, "attempt": attempt, "at": at * SECOND} for status, attempt, at in history]
    about = {"task_id": name, "labels": [f"{name}.0"], "history": steps, "params": {}, "handler": "mark"}
    return on_robot(**about | values)


@pytest.mark.parametrize("kinds", [("worker", "robot"), ("robot", "worker"), ("robot", "robot")])
def test_a_task_that_begins_before_one_which_is_ahead_of_it_fails_the_run(kinds):
    first, second = kinds
    early, late = queued("t1", 0, 9, runs_on=first), queued("t2", 1, 6, runs_on=second)
    expected = {"t1.0": "SUCCESS", "t2.0": "SUCCESS"}
    found = verdict(early, late, expected=expected, answered={}).figures
    assert (found["out_of_order"], found["mixed"]) == (1, first != second)
    urgent = late | {"priority": 5}
    found = verdict(early, urgent, expected=expected, answered={}).figures
    assert (found["out_of_order"], found["mixed"]) == (0, first != second)


@pytest.mark.parametrize("more", [{"outages": [(5 * SECOND, 7 * SECOND)]}, {}], ids=["outage", "just queued"])
def test_a_claim_may_have_looked_before_a_task_was_queued(more):
    early, late = queued("t1", 0 if more else 5, 9), queued("t2", 1, 6)
    expected = {"t1.0": "SUCCESS", "t2.0": "SUCCESS"}
    assert verdict(early, late, expected=expected, answered={}, **more).figures["out_of_order"] == 0
