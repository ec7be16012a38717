"""`make chaos`: submit tasks while everything they depend on is killed and stopped, then check how each task ended.

    python -m tests.chaos [--seed 1] [--tasks 500] [--kills 20]

The seed determines the tasks and the times of the events; which process an event hits also depends on what runs at that
moment. The last line of the output is the verdict as JSON. Exit status: 0 no violation, 1 violations, 2 this machine
lacks something.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from fmv.devstack.embedded_mongodb import StackError
from tests.chaos.driver import Chaos
from tests.chaos.judge import MUST_BE_0, Verdict, percentile
from tests.chaos.world import World, what_is_missing

HARD_LIMIT = 600  # seconds of the whole run
LEASE = 5.0  # seconds: short, for many recoveries; six renewals long, so that a busy machine loses no lease
RENEW = 0.8
STOP_GRACE = 1.0


class TooLong(Exception):
    pass


def main() -> int:
    options = read_options()
    if missing := what_is_missing():
        print(f"fmv: chaos cannot run here: {missing}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGALRM, stop_the_clock)
    signal.alarm(HARD_LIMIT)
    directory = Path(tempfile.mkdtemp(prefix="fmv-chaos-"))
    try:
        verdict = run(options, directory)
    except (StackError, TooLong) as error:
        print(f"fmv: {error} Logs and marks are in {directory}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        shutil.rmtree(directory, ignore_errors=True)
        return 130
    if verdict.failed:
        print(f"\nLogs and marks are in {directory}")
    else:
        shutil.rmtree(directory, ignore_errors=True)
    print(json.dumps(verdict.figures))
    return int(verdict.failed)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Break everything, lose nothing.")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="default: a random one")
    parser.add_argument("--tasks", type=int, default=500, help="tasks to submit (default: 500)")
    parser.add_argument(
        "--kills", type=int, default=20, help="SIGKILLs of pool processes, workers and robots' agents (default: 20)"
    )
    options = parser.parse_args()
    if not (40 <= options.tasks <= 5000 and 1 <= options.kills <= 100):
        parser.error("--tasks must be 40 to 5000, --kills 1 to 100")
    return options


def stop_the_clock(*_: object) -> None:
    raise TooLong(f"The run took longer than {HARD_LIMIT // 60} minutes and was stopped without a verdict.")


def run(options: argparse.Namespace, directory: Path) -> Verdict:
    print(f"Seed {options.seed}: {options.tasks} tasks, {options.kills} kills. Starting everything.", flush=True)
    settings = {"FMV_LEASE_SECONDS": str(LEASE), "FMV_RENEW_SECONDS": str(RENEW), "FMV_STOP_GRACE": str(STOP_GRACE)}
    with World(directory, **settings) as world:
        chaos = Chaos(world, options)
        chaos.register_robots()
        with chaos.agents:
            chaos.run()
            chaos.drain()
        verdict, tasks = chaos.judge()
        report(verdict, tasks, chaos)
        return verdict


def report(verdict: Verdict, tasks: list[dict[str, Any]], chaos: Chaos) -> None:
    print("\nVerdict")
    for name, value in verdict.figures.items():
        due = "  must be 0" if name in MUST_BE_0 else ""
        print(f"  {name:16} {value!s:>8}{due}")
    answers = chaos.client.answer_times
    attempts = sum(task["attempt"] for task in tasks)
    print(
        f"Submits were answered in {percentile(answers, 0.5)} s (median), {max(answers):.2f} s (longest); "
        f"{chaos.record.broken} connections broke."
    )
    print(f"{attempts} attempts, {len(chaos.record.cancels)} cancels accepted, {len(verdict.waits)} runs killed.")
    print(f"What the proxy did to the agents' requests: {chaos.agents.faults()}.")
    undisturbed = [wait.seconds for wait in verdict.waits if not wait.during_outage]
    times = f"{percentile(undisturbed, 0.5)} s (median), {percentile(undisturbed, 0.99)} s (p99)"
    print(f"With RabbitMQ and MongoDB up, {len(undisturbed)} of these ran again or ended after {times}. Slowest:")
    for seconds, kill, task, during_outage in verdict.waits[:5]:
        print(f"  {seconds:5.1f} s after the kill of {kill.kind}: task {task}{' (outage)' if during_outage else ''}")
    for text in verdict.violations:
        print(f"  VIOLATION: {text}")


if __name__ == "__main__":
    sys.exit(main())
