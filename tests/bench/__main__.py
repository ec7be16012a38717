import os
import signal
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from fmv.devstack import stack
from fmv.devstack.embedded_mongodb import StackError
from tests.bench import backlog, figures, growth, listeners, memory, pools, profile, report, requests, servers, tasks
from tests.bench.agents import latency, load, waiting
from tests.bench.agents.fleet import PACE, Pace
from tests.bench.stage import Stage, what_is_missing
from tests.bench.timelines import week

DIRECTORY = stack.ROOT / "var" / "bench"
AGENT_PARTS = {  # with the pace at which the agents call
    "agents": load.measure,
    "agents-waiting": waiting.measure,
    "agents-latency": latency.measure,
}
PARTS = {
    "requests": requests.measure,
    "requests-first": requests.measure_first,
    "servers": servers.measure,
    "tasks": tasks.measure,
    "waiting": tasks.measure_waiting,
    "backlog": backlog.measure,
    "backlog-make-run": partial(backlog.measure, kind=backlog.FmvAsMakeRun),
    "pools": pools.measure,
    "profile": profile.measure,
    "memory": memory.measure,
    "listeners": listeners.measure,
    **AGENT_PARTS,
    "growth": growth.measure,  # last, with the next: they connect Django to other databases
    "timelines": week.measure,
}


def main() -> int:
    chosen = [part for part in os.environ.get("PARTS", "").split(",") if part] or list(PARTS)
    if unknown := [part for part in chosen if part not in PARTS]:
        return refuse(f"PARTS has no {', '.join(unknown)}; there are: {', '.join(PARTS)}.")
    size = figures.QUICK if os.environ.get("QUICK") else figures.FULL
    if most := os.environ.get("MOST"):
        if most not in map(str, growth.SIZES):
            return refuse(f"MOST must be one of {', '.join(map(str, growth.SIZES))}, not {most}.")
        size = replace(size, most=int(most))
    if many := os.environ.get("TASKS"):
        if not many.isdecimal() or int(many) < 100:
            return refuse(f"TASKS must be a number from 100, not {many}.")
        size = replace(size, backlog=int(many))
    if agents := os.environ.get("AGENTS"):
        if not agents.isdecimal() or int(agents) < 20:
            return refuse(f"AGENTS must be a number from 20, not {agents}.")
        size = replace(size, agents=int(agents))
    if claims := os.environ.get("CLAIMS"):
        if not claims.isdecimal() or not 1 <= int(claims) <= 500:
            return refuse(f"CLAIMS must be a number from 1 to 500, not {claims}.")
        size = replace(size, claims=int(claims))
    try:
        slower = float(os.environ.get("PACE") or 1)
    except ValueError:
        slower = 0
    if not 1 <= slower <= 2.5:  # with more than that a lease of 30 s would end
        return refuse(f"PACE must be a number from 1 to 2.5, not {os.environ['PACE']}.")
    if missing := what_is_missing(chosen):
        return refuse(missing)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run(chosen, size, PACE._replace(renew=PACE.renew * slower, report=PACE.report * slower))
    except StackError as error:
        return refuse(str(error))
    except KeyboardInterrupt:
        return 130
    return 0


def run(chosen: list[str], size: figures.Size, pace: Pace) -> None:
    done: dict[str, list[figures.Figure]] = {}
    with tempfile.TemporaryDirectory(prefix="fmv-bench-") as directory, Stage(Path(directory)) as stage:
        stage.engine += f"; only {size.pairs} pairs" if size.pairs < 5 else ""
        for part in [part for part in PARTS if part in chosen]:
            figures.say(part)
            stage.clear()
            done[part] = AGENT_PARTS[part](stage, size, pace) if part in AGENT_PARTS else PARTS[part](stage, size)
            report.write(DIRECTORY, done)  # after each part, so that an interrupted run keeps what it measured
    print("\n" + report.table([each for part in done.values() for each in part]))
    print(f"\nThe report is in {(DIRECTORY / 'report.json').relative_to(stack.ROOT)}, with plots beside it.")


def refuse(sentence: str) -> int:
    print(f"bench: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
