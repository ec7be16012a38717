"""What needs a person at robots and their agents."""

import datetime as dt
from collections.abc import Iterator

from fmv.mongodb.server import recent_now
from robots import connections
from robots.condition import Condition
from robots.models import Absence, Robot, RobotState, RobotStateQuerySet
from tasks.reports import mismatches
from tasks.reports.attention import failing
from tasks.reports.attention.lines import Line, Look, Source
from tasks.reports.held_lanes import HeldLane
from tasks.reports.remedies import Remedy

MAX_ROBOTS = 1000  # of which a source reads the state
CONNECTION = ("robot", "online", "last_seen", "since", "signed_off", "reported_at")
LONG_OUT = dt.timedelta(days=1)  # out of service


def failing_robots(look: Look) -> Iterator[Line]:
    for each in failing.now_failing():
        what = f", the last with {each.error}" if each.error else ""
        yield Line(
            f"The last {failing.FAILURES} tasks of {each.handler} failed{what}",
            each.since,
            robot=each.robot,
            handler=each.handler,
            remedy=Remedy("show_failure", task=each.last),
            is_error=True,
        )


def offline_robots(look: Look) -> Iterator[Line]:
    """Yield robots in service that are offline, or for whose agent tasks wait; those for which tasks wait first."""
    waiting = {queued.robot: queued for queued in look.queued if queued.runs_on == "robot"}
    offline = _conditions(RobotState.objects.offline(look.now).order_by()[:MAX_ROBOTS])
    others = waiting.keys() - offline.keys()
    agents = offline | (_conditions(RobotState.objects.filter(pk__in=others).order_by()) if others else {})
    names = {*offline, *(waiting.keys() - {name for name, each in agents.items() if each.online})}
    serving = Robot.objects.in_service().filter(pk__in=names).order_by().values_list("pk", flat=True) if names else []
    for name in sorted(serving, key=lambda name: (name not in waiting, name)):
        yield _offline(name, agents.get(name), is_error=name in waiting)


def _conditions(states: RobotStateQuerySet, *more: str) -> dict[str, Condition]:
    """Return the conditions of robots by name, read without what their agents reported, but with `more` columns."""
    now = recent_now()
    return {row["robot"]: Condition(RobotState(**row), now) for row in states.values(*CONNECTION, *more)}


def _offline(name: str, condition: Condition | None, is_error: bool) -> Line:
    also = ", and tasks wait for it" if is_error else ""
    if condition is None:
        return Line(
            f"No agent has connected yet{also}", robot=name, remedy=Remedy("show_robot", robot=name), is_error=True
        )
    text = f"Its agent is offline, because {condition.why_offline}{also}"
    remedy = Remedy("show_robot", robot=name)
    return Line(text, condition.offline_since, robot=name, remedy=remedy, is_error=is_error)


def skills_unknown(look: Look) -> Iterator[Line]:
    """Yield robots for which tasks wait that their agent does not know."""
    waiting = [queued for queued in look.queued if queued.runs_on == "robot" and queued.robot in look.starting]
    names = {queued.robot for queued in waiting}
    conditions = _conditions(RobotState.objects.filter(pk__in=names).order_by(), "session") if names else {}
    for queued in sorted(waiting, key=lambda queued: (queued.robot, queued.handler)):
        condition = conditions.get(queued.robot)
        if condition and condition.online and not condition.knows(queued.handler):
            text = f"Its agent does not know {queued.handler}: tasks wait, and so do those behind them"
            remedy = Remedy("show_task", robot=queued.robot, task=queued.first)
            yield Line(text, queued.since, robot=queued.robot, remedy=remedy, is_error=True)


def reported_errors(look: Look) -> Iterator[Line]:
    """Yield robots that report errors, fatal ones first."""
    names = connections.names("with_errors")[:MAX_ROBOTS]
    conditions = _conditions(RobotState.objects.filter(pk__in=names).order_by(), "errors") if names else {}
    found = [(condition.errors[0], name) for name, condition in conditions.items() if condition.errors]
    for error, name in sorted(found, key=lambda each: (each[0]["level"] != "fatal", each[1])):
        text = f"It reports {error['type']}" + (f": {error['description']}" if error["description"] else "")
        remedy = Remedy("show_robot", robot=name)
        yield Line(text.rstrip("."), error["since"], robot=name, remedy=remedy, is_error=error["level"] == "fatal")


def wrong_tasks(look: Look) -> Iterator[Line]:
    for name, task in sorted(mismatches.of_all().items()):
        text = f"It says that it runs task {task['task_id']}, which FMV does not count as running on it"
        yield Line(text, robot=name, remedy=Remedy("show_robot", robot=name), is_error=True)


def replaced_sessions(look: Look) -> Iterator[Line]:
    for name, times in sorted(connections.several_agents().items()):
        text = f"The session of its agent was replaced {times} times within an hour"
        yield Line(text, robot=name, remedy=Remedy("show_robot", robot=name))


def blocked_lanes(look: Look) -> Iterator[Line]:
    text = "The task is over, and its robot has not confirmed that it stopped: a lane is blocked"
    for lane in look.held:
        if lane.is_blocked:
            yield _held(lane, text, lane.finished_at, "free_lane")


def out_of_contact(look: Look) -> Iterator[Line]:
    for lane in look.held:
        if lane.out_of_contact_since and not lane.is_blocked:
            yield _held(lane, "Its robot is out of contact, and may still run it", lane.out_of_contact_since, "end")


def _held(lane: HeldLane, text: str, since: dt.datetime | None, do: str) -> Line:
    remedy = Remedy(do, robot=lane.robot, task=lane.task)
    return Line(text, since, lane.robot, lane.task, lane.handler, remedy=remedy, is_error=True)


def held_queues(look: Look) -> Iterator[Line]:
    """Yield robots whose queue is held, those held longest first."""
    columns = ("name", "held_since", "held_by", "held_why")
    for row in Robot.objects.held().order_by("held_since").values(*columns)[:MAX_ROBOTS]:
        robot = Robot(**row)
        remedy = Remedy("release_queue", robot=robot.name)
        yield Line(f"Its queue is {robot.hold_in_words}", robot.held_since, robot=robot.name, remedy=remedy)


def long_out(look: Look) -> Iterator[Line]:
    """Yield robots that have been out of service for LONG_OUT, those that are so longest first."""
    kind = Absence.Kind.OUT_OF_SERVICE
    absent = Absence.objects.now().filter(kind=kind, begun__lt=look.now - LONG_OUT).order_by("begun", "robot")
    since = dict(absent.values_list("robot", "begun")[:MAX_ROBOTS])
    still = set(Robot.objects.out_of_service().filter(pk__in=list(since)).order_by().values_list("pk", flat=True))
    text = "It has been out of service for more than a day"
    for name, begun in since.items():
        if name in still:  # the absence of one that was put in service ends with the next run of the periodic step
            yield Line(text, begun, robot=name, remedy=Remedy("put_in_service", robot=name))


#: connections.ALARMS -> what finds the robots that have it
ALARMS = {"several_agents": replaced_sessions, "other_task": wrong_tasks, "unknown_handler": skills_unknown}


def alarms() -> dict[str, int]:
    """Return how many robots have each of connections.ALARMS: six queries."""
    look = Look(shown=0)
    return {alarm: len({line.robot for line in find(look)}) for alarm, find in ALARMS.items()}


ROBOTS = (
    Source(
        "out_of_contact",
        "Tasks whose robot is out of contact",
        out_of_contact,
        "agents",
        "Look at what the robot does. If it stands still, press 'Do not wait for the robot' on the task's page.",
    ),
    Source(
        "lane_blocked",
        "Lanes that are blocked",
        blocked_lanes,
        "agents",
        "Start the agent of the robot; or, if the robot stands still, free the lane on the task's page.",
    ),
    Source(
        "wrong_task",
        "Robots that run what they should not",
        wrong_tasks,
        "agents",
        "Look at what the robot does; start its agent again if it has lost its way.",
    ),
    Source(
        "reports_error",
        "Robots that report errors",
        reported_errors,
        "agents",
        "Look at the robot.",
        ("robots", "state=with_errors"),
    ),
    Source(
        "failing",
        "Robots that fail",
        failing_robots,
        "tasks",
        "Read why the task failed, on its page.",
        ("tasks", "show=failed"),
    ),
    Source(
        "offline",
        "Robots that are offline",
        offline_robots,
        "agents",
        "Start the agent; 'Connect this robot' on the robot's page shows how. Or take the robot out of service.",
        ("robots", "state=offline"),
    ),
    Source(
        "skill_unknown",
        "Tasks that the robot's agent does not know",
        skills_unknown,
        "agents",
        "Start the agent with that skill, or cancel these tasks.",
    ),
    Source(
        "two_agents",
        "Agents that replace each other",
        replaced_sessions,
        "agents",
        "Two agents use one token, or an agent starts again and again: read its log. Give each robot one agent.",
    ),
    Source(
        "queue_held",
        "Queues that are held",
        held_queues,
        "agents",
        "Release the queue when its robot may start tasks again.",
        ("robots", "state=held"),
    ),
    Source(
        "out_of_service",
        "Robots out of service for more than a day",
        long_out,
        "agents",
        "Put the robot in service, or delete it.",
        ("robots", "state=out"),
    ),
)
