"""`make simulate`. `python -m tests.simulation --help` lists the options."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.model import Costs, Fleet, Plan

REPORT = Path(__file__).resolve().parents[2] / "var" / "simulation" / "report.json"
TASKS = 5_000  # of a run, at least: small fleets are simulated for longer
OUTAGE = 10.0  # seconds for which RabbitMQ takes no message
RECOVERY_LIMIT = 900.0  # seconds after which a run stops waiting for the fleet to recover


def main(arguments: Sequence[str] | None = None) -> int:
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fmv.settings")
    os.environ.setdefault("FMV_DEBUG", "1")  # only settings are read; no server starts
    django.setup()
    from tests.simulation import report

    options = read_options(arguments)
    runs = simulate(options)
    report.write(REPORT, options, runs)
    print("\n".join(report.tables(options, runs)))
    print(f"\nThe report is in {REPORT}.")
    return 0


# --- Options ---------------------------------------------------------------------------------------------------------


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options. A wrong one ends the process with status 2 and an error that names it."""
    from tests.simulation.model import DISTRIBUTIONS, Costs

    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description="Simulate FMV with fleets of several sizes."
    )
    parser.add_argument(
        "--robots", type=several(whole), default=[10, 1_000, 100_000], help="numbers of robots, for example 10,1000"
    )
    parser.add_argument(
        "--loads", type=several(share), default=[0.3, 0.6, 0.9], help="shares of the workers' time in use"
    )
    parser.add_argument(
        "--robots-per-process",
        type=whole,
        default=50,
        help="robots for each worker process; there are 2 processes at least",
    )
    parser.add_argument(
        "--processes-per-machine",
        type=whole,
        default=8,
        help="worker processes of each machine; there are 2 machines at least",
    )
    parser.add_argument("--maintenance", type=whole, default=1, help="processes of the maintenance worker")
    parser.add_argument("--lanes", type=whole, default=1, help="lanes of each robot")
    parser.add_argument("--seconds", type=positive, default=1.0, help="mean time of a task's handler")
    parser.add_argument(
        "--distribution", choices=sorted(DISTRIBUTIONS), default="exponential", help="how these seconds are distributed"
    )
    parser.add_argument(
        "--lost", type=share, default=0.01, help="share of wake-up messages lost in the run that loses some"
    )
    parser.add_argument("--deaths", type=duration, default=0.0, help="deaths of each machine an hour, in every run")
    parser.add_argument("--span", type=positive, default=120.0, help="simulated seconds of a run, at least")
    parser.add_argument(
        "--warm-up", type=positive, default=10.0, help="simulated seconds before, which are not counted"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers")
    for cost in fields(Costs):
        about = f"seconds: {cost.metadata['help']}"
        parser.add_argument(f"--{cost.name.replace('_', '-')}", type=duration, default=cost.default, help=about)
    return parser.parse_args(arguments)


def several(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: [kind(part) for part in text.split(",")]


def whole(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def positive(text: str) -> float:
    return number(text, lambda value: 0 < value < float("inf"), "a number above 0")


def duration(text: str) -> float:
    return number(text, lambda value: 0 <= value < float("inf"), "a number, 0 or more")


def share(text: str) -> float:
    """Return 0.6 for "0.6" and for "60%"."""
    scaled = str(float(text[:-1]) / 100) if text.endswith("%") and text[:-1].replace(".", "").isdecimal() else text
    return number(scaled, lambda value: 0 < value < 1, "a share above 0 and below 1, like 0.6 or 60%")


def number(text: str, fits: Callable[[float], bool], what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not fits(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value


def costs_of(options: argparse.Namespace) -> Costs:
    from tests.simulation.model import Costs

    return Costs(**{cost.name: getattr(options, cost.name) for cost in fields(Costs)})


def plan_of(options: argparse.Namespace, robots: int, load: float) -> Plan:
    from tests.simulation.model import Plan

    processes = max(2, robots // options.robots_per_process)
    machines = min(processes, max(2, -(-processes // options.processes_per_machine)))
    return Plan(
        robots=robots, load=load, processes=processes, machines=machines, seconds=options.seconds,
        distribution=options.distribution, lanes=options.lanes, deaths=options.deaths,
        maintenance=options.maintenance, costs=costs_of(options), seed=options.seed,
    )  # fmt: skip


# --- Runs ------------------------------------------------------------------------------------------------------------


def simulate(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run each size of fleet at each load, and at the middle load with each fault."""
    runs = []
    for robots in options.robots:
        plans = [plan_of(options, robots, load) for load in options.loads]
        middle = plans[len(plans) // 2]
        runs += [run("steady", plan, options) for plan in plans]
        runs.append(run("messages lost", replace(middle, lost=options.lost), options))
        runs.append(run("a machine dies", middle, options, machine_dies))
        runs.append(run("RabbitMQ is away", middle, options, broker_away))
    return runs


def run(
    scenario: str, plan: Plan, options: argparse.Namespace, happens: Callable[[Fleet], None] | None = None
) -> dict[str, Any]:
    """Let a fleet settle; return its figures over the span or, if given, while `happens` runs."""
    from tests.simulation.figures import figures
    from tests.simulation.model import Fleet
    from tests.simulation.periodic import Maintenance

    print(f"  {plan.robots} robots, load {plan.load:.0%}: {scenario}", file=sys.stderr, flush=True)
    fleet = Fleet(plan)
    maintenance = Maintenance(fleet)
    fleet.env.run(options.warm_up)
    fleet.measure()
    if happens:
        happens(fleet)
    else:
        fleet.env.run(fleet.env.now + max(options.span, TASKS / plan.rate))
    return {"scenario": scenario, **figures(fleet, maintenance)}


def machine_dies(fleet: Fleet) -> None:
    """Kill the busiest machine while it runs tasks, and wait until all of them have started again."""
    while not fleet.orphans:
        fleet.env.run(fleet.env.now + 0.1)
        fleet.kill(max(fleet.machines, key=lambda machine: machine.size - len(machine.messages.get_queue)))
    lost = len(fleet.orphans)
    wait_until(fleet, lambda: len(fleet.restarts) >= lost)


def broker_away(fleet: Fleet) -> None:
    """Stop RabbitMQ for OUTAGE seconds, and wait until every robot whose message was lost has started a task."""
    fleet.broker_is_up = False
    fleet.env.run(fleet.env.now + OUTAGE)
    fleet.broker_is_up = True
    wait_until(fleet, lambda: fleet.missed == 0)


def wait_until(fleet: Fleet, recovered: Callable[[], bool]) -> None:
    end = fleet.env.now + RECOVERY_LIMIT
    while not recovered() and fleet.env.now < end:
        fleet.env.run(fleet.env.now + 1)


if __name__ == "__main__":
    sys.exit(main())
