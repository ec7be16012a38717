"""The driver of a chaos run: it plans the events, submits the tasks, and restarts what has ended."""

import argparse
import bisect
import datetime as dt
import queue
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import requests
from pymongo import MongoClient

from tests.chaos.agents import Agents
from tests.chaos.client import Client, Submit, make_pile, make_submit
from tests.chaos.judge import FINISHED, NEVER, SECOND, Kill, Record, Run, Verdict, judge, read_runs
from tests.chaos.world import MAINTENANCE, WORKERS, World, children

STOP_LIMIT = 20.0  # seconds from SIGTERM to a worker's end: STOP_GRACE, 3 s of interrupts, the rest for a busy machine
GIVES_UP = 15.0  # seconds after the kill of a pool process in which Celery may end its worker
DRAIN_LIMIT = 240.0  # seconds for the last tasks after everything is up again; an idle machine needs 30
RECONNECT_TIME = 3  # seconds from a server's return until all processes have reconnected
CLIENTS = 8
ROBOTS = [f"Robot {number:02}" for number in range(40)]
WITH_AGENTS = ROBOTS[:6]
SHARE_OF_AGENTS = 0.5  # of the tasks are for these robots
KILLS = [
    "process",
    "agent",
    "worker",
    "busy",
    "group",
    "agent",
    "busy",
    "maintenance",
    "busy",
    "agent",
    "busy",
    "worker",
]


class Chaos:
    def __init__(self, world: World, options: argparse.Namespace) -> None:
        self.world = world
        self.options = options
        self.chance = random.Random(options.seed)
        self.record = Record(seed=options.seed, deaths=world.watch.deaths)
        self.record.lanes = {name: self.chance.choices([1, 2, 3], [6, 1, 1])[0] for name in ROBOTS}
        self.client = Client(world.url, self.record, self.violation)
        self.window = max(36.0, options.tasks * 0.25, options.kills * 4.5)  # seconds for submits and events
        self.agents = Agents(world, self.record, {name: self.record.lanes[name] for name in WITH_AGENTS}, self)
        self.events: list[tuple[float, Callable[[], None]]] = []  # ordered by time
        self.threads: list[threading.Thread] = []
        self.stopping: dict[str, float] = {}  # worker -> when it got SIGTERM
        self.lost_process: dict[str, float] = {}  # worker -> when a pool process of it was killed last
        self.stopping_rabbitmq: subprocess.Popen[bytes] | None = None
        self.clock_offset = time.time_ns() - time.monotonic_ns()
        self.began = time.monotonic()

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    def say(self, text: str) -> None:
        print(f"{self.now:6.1f} s  {text}", flush=True)

    def violation(self, text: str) -> None:
        self.say(f"VIOLATION: {text}")
        self.record.violations.append(text)

    def register_robots(self) -> None:
        for name, lanes in self.record.lanes.items():
            body = {"name": name, "location": "Earth", "description": "For breaking things.", "lanes": lanes}
            assert self.client.insist("POST", "/robot/", body).status_code == 201

    # The plan.

    def plan(self) -> None:
        chance, window = self.chance, self.window
        crash = chance.choice(
            [
                ("RabbitMQ hangs (SIGSTOP)", self.freeze_rabbitmq, self.thaw_rabbitmq),
                ("kill -9 of RabbitMQ", self.crash_rabbitmq, self.restart_rabbitmq),
            ]
        )
        for share, (what, stop, start) in (
            (0.16, ("RabbitMQ stops", self.stop_rabbitmq, self.restart_rabbitmq)),
            (0.68, crash),
        ):
            self.at(window * share, self.announce, what, stop)
            self.at(window * share + chance.uniform(3, 5), start, window * share)
        self.at(
            window * 0.42,
            self.announce,
            "MongoDB stops",
            partial(self.in_thread, self.stop_mongodb, chance.uniform(3, 5)),
        )
        self.at(window * 0.58, self.announce, "kill -9 of the web server", self.kill_web)
        for number in range(self.options.kills):
            at = window * (0.04 + 0.9 * (number + chance.random()) / self.options.kills)
            self.at(at, self.kill, KILLS[number % len(KILLS)], fork(chance))
        for name in (chance.choice(WORKERS), chance.choice(WORKERS), chance.choice(MAINTENANCE)):
            self.at(chance.uniform(0.05, 0.95) * window, self.stop_worker, name)
        for _ in range(max(6, self.options.tasks // 12)):
            self.at(chance.uniform(0.05, 0.98) * window, self.in_thread, self.cancel, fork(chance))
        self.agents.plan(chance, window, self.options.kills)
        for name in chance.sample(ROBOTS, 5):
            self.at(chance.uniform(0.05, 0.7) * window, self.in_thread, self.disable, name, chance.uniform(6, 12))

    def at(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        bisect.insort(self.events, (seconds, partial(function, *args)), key=lambda event: event[0])

    def in_thread(self, function: Callable[..., None], *args: Any) -> None:
        """Call the function in a new thread."""
        thread = threading.Thread(target=self.guarded, args=(function, *args), daemon=True)
        thread.start()
        self.threads.append(thread)

    def guarded(self, function: Callable[..., None], *args: Any) -> None:
        try:
            function(*args)
        except Exception as error:  # a thread that dies unnoticed would make the verdict worthless
            self.violation(f"{function.__name__} of the driver itself failed: {error!r}")

    def announce(self, what: str, function: Callable[[], None]) -> None:
        self.say(what)
        function()

    # The run.

    def run(self) -> None:
        """Submit the tasks, start the planned events, and restart processes that have ended."""
        self.plan()
        submits: queue.SimpleQueue[tuple[float, Submit]] = queue.SimpleQueue()
        busiest = min(WITH_AGENTS, key=lambda name: self.record.lanes[name])
        for submit in make_pile(busiest, self.world.marks):
            submits.put((0.0, submit))
        for number in range(self.options.tasks):
            has_agent = self.chance.random() < SHARE_OF_AGENTS
            robot = self.chance.choice(WITH_AGENTS if has_agent else ROBOTS[len(WITH_AGENTS) :])
            submit = make_submit(f"s{number}", robot, self.world.marks, self.chance, has_agent=has_agent)
            submits.put((self.window * 0.92 * number / self.options.tasks, submit))
        self.began = time.monotonic()
        for _ in range(CLIENTS):
            self.in_thread(self.submit_all, submits)
        while self.events or any(thread.is_alive() for thread in self.threads):
            while self.events and self.events[0][0] <= self.now:
                self.events.pop(0)[1]()
            self.supervise()
            time.sleep(0.05)

    def submit_all(self, submits: "queue.SimpleQueue[tuple[float, Submit]]") -> None:
        while not submits.empty():
            at, submit = submits.get()
            time.sleep(max(0.0, at - self.now))
            self.client.submit(submit)

    def supervise(self) -> None:
        """Restart processes that have ended. It is a violation when one ends that was not told to.

        A worker may end within GIVES_UP seconds of a kill of its pool process, or of RabbitMQ's return if that was away
        meanwhile: Celery ends one whose process dies while it starts ("Could not start worker processes") or
        reconnects (celery/celery#6052). Its supervisor starts it again; in this run that is the chaos driver.
        """
        for name, process in list(self.world.up.items()):
            since = self.stopping.get(name)
            if process.poll() is not None:
                del self.world.up[name]
                self.stopping.pop(name, None)
                if since is None and self.now - self.lost_process.get(name, -GIVES_UP) < GIVES_UP:
                    self.record.restarted += 1
                    self.say(f"  {name} ended with status {process.returncode} after the kill of its process")
                elif since is None:
                    self.violation(f"{name} ended by itself with status {process.returncode}")
                else:
                    self.say(f"  {name} has stopped, after {self.now - since:.1f} s")
                self.at(self.now, self.start, name)
            elif since is not None and self.now - since > STOP_LIMIT:
                self.violation(f"{name} has not stopped within {STOP_LIMIT:g} s of SIGTERM")
                self.kill_worker(name, "group")

    def drain(self) -> None:
        """Wait until all accepted tasks have ended."""
        self.say("Everything is up and submitted; waiting for the last tasks.")
        deadline = time.monotonic() + DRAIN_LIMIT
        while not self.client.all_have_ended() and time.monotonic() < deadline:
            while self.events:
                self.events.pop(0)[1]()
            self.supervise()
            time.sleep(0.2)
        late = time.monotonic() >= deadline
        if not late:
            self.agents.drain()
        self.say(f"Some tasks have not ended after {DRAIN_LIMIT:g} s." if late else "All tasks have ended.")

    def runs(self) -> list[Run]:
        lines = self.world.marks.read_text().splitlines() if self.world.marks.exists() else []
        return read_runs(lines, self.record.deaths, self.record.agents)

    # Events.

    def start(self, name: str) -> None:
        self.world.start(name)
        self.agents.started(name)

    def kill(self, kind: str, chance: random.Random) -> None:
        if kind == "agent":
            self.agents.kill(chance)
            return
        names = [name for name in (MAINTENANCE if kind == "maintenance" else WORKERS) if name in self.world.up]
        processes = [pid for name in names for pid in children(self.world.up[name].pid)]
        busy = [run.pid for run in self.runs() if run.end == NEVER and run.pid not in self.record.agents]
        if not processes or (kind == "busy" and not busy and self.now < self.window):
            self.at(self.now + 0.2, self.kill, kind, chance)  # all have just been killed, or none runs a task
            return
        self.record.killed += 1
        if kind == "maintenance":
            kind = chance.choice(["process", "worker", "group"])
        if kind in ("worker", "group"):
            self.kill_worker(chance.choice(names), kind)
            return
        pid = chance.choice(busy if kind == "busy" and busy else processes)
        self.lost_process |= {name: self.now for name in names if pid in children(self.world.up[name].pid)}
        at = self.world.watch.kill(pid)
        self.record.kills.append(Kill(at, pid, "its process"))
        self.say(f"kill -9 of process {pid}{', which runs a task' if pid in busy else ''}")

    def kill_worker(self, name: str, kind: str) -> None:
        """Kill the worker's main process (then its processes hand their tasks back) or, for "group", all of them."""
        at, forked = self.world.kill(name, group=kind == "group")
        self.stopping.pop(name, None)
        self.say(f"kill -9 of {name}{' and all its processes' if kind == 'group' else ''}")
        self.record.kills += [Kill(at, pid, "its worker") for pid in forked]
        self.at(self.now + self.chance.uniform(0.5, 2), self.world.start, name)

    def kill_web(self) -> None:
        self.world.kill("web")
        self.world.start("web")

    def stop_worker(self, name: str) -> None:
        process = self.world.up.get(name)
        if process is None or name in self.stopping or self.agents.is_frozen(process.pid):
            self.at(self.now + 2, self.stop_worker, name)
            return
        self.say(f"SIGTERM to {name}")
        self.stopping[name] = self.now
        process.terminate()

    def stop_mongodb(self, down: float) -> None:
        since = self.now
        self.world.stop_mongodb()
        self.say(f"  MongoDB has stopped, after {self.now - since:.1f} s")
        self.at(self.now + down, self.start_mongodb, since)

    def start_mongodb(self, since: float) -> None:
        self.world.start_mongodb()
        self.back("MongoDB", since)

    def stop_rabbitmq(self) -> None:
        self.stopping_rabbitmq = self.world.up.pop("rabbitmq")
        self.stopping_rabbitmq.terminate()

    def crash_rabbitmq(self) -> None:
        self.world.kill("rabbitmq")

    def restart_rabbitmq(self, since: float) -> None:
        if self.stopping_rabbitmq and self.stopping_rabbitmq.poll() is None:
            self.say("  RabbitMQ has not stopped yet")
            self.at(self.now + 0.5, self.restart_rabbitmq, since)
            return
        self.world.start_rabbitmq()
        self.in_thread(self.await_rabbitmq, since)

    def await_rabbitmq(self, since: float) -> None:
        self.world.wait_until(self.world.broker_answers, "rabbitmq", DRAIN_LIMIT)  # an idle machine needs 10 s
        self.back("RabbitMQ", since)

    def freeze_rabbitmq(self) -> None:
        self.world.up["rabbitmq"].send_signal(signal.SIGSTOP)

    def thaw_rabbitmq(self, since: float) -> None:
        self.world.up["rabbitmq"].send_signal(signal.SIGCONT)
        self.back("RabbitMQ", since)

    def back(self, name: str, since: float) -> None:
        """Record the outage. It lasts RECONNECT_TIME seconds longer, until all clients of the server are back."""
        self.say(f"  {name} answers again, after {self.now - since:.1f} s")
        if name == "RabbitMQ":  # a worker that could not connect meets the loss of its process only now
            self.lost_process |= {worker: self.now for worker, at in self.lost_process.items() if at >= since}
        began = int(self.began * SECOND)
        self.record.outages.append((began + int(since * SECOND), time.monotonic_ns() + RECONNECT_TIME * SECOND))

    def cancel(self, chance: random.Random) -> None:
        runs = self.runs()
        running = [run.task for run in runs if run.end == NEVER]
        waiting = list(set(self.record.answered.values()).difference(run.task for run in runs))
        targets = (running or waiting) if chance.random() < 0.6 else (waiting or running)
        if not targets:
            return
        id = chance.choice(sorted(targets))
        self.record.cancel_attempts.add(id)
        try:
            response = self.client.call("POST", f"/task/{id}/cancel")
        except requests.ConnectionError:
            return
        if response.ok:
            self.record.cancels.append((id, response.json()["attempt"], response.status_code))
            self.say(f"cancel of a {'waiting' if response.status_code == 200 else 'running'} task")

    def disable(self, name: str, seconds: float) -> None:
        self.client.insist("PATCH", f"/robot/{name}", {"enabled": False})
        start = time.monotonic_ns()
        self.say(f"{name} is out of service for {seconds:.0f} s")
        time.sleep(seconds)
        self.record.disabled.append((name, start, time.monotonic_ns()))
        self.client.insist("PATCH", f"/robot/{name}", {"enabled": True})

    # The verdict.

    def judge(self) -> tuple[Verdict, list[dict[str, Any]]]:
        """Return the verdict, and the tasks that it is about."""
        self.check_lanes()
        tasks = list(self.client.tasks())
        return judge(self.record, tasks, self.runs(), self.mark_time), tasks

    def check_lanes(self) -> None:
        with MongoClient[dict[str, Any]]("127.0.0.1", self.world.mongodb_port) as mongodb:
            held = mongodb.fmv.tasks_task.count_documents({"status": {"$in": FINISHED}, "lane": {"$ne": None}})
        if held:
            self.violation(f"{held} tasks have ended and still hold a lane")

    def mark_time(self, text: str) -> int:
        """Convert a time of the API to the clock of the marks."""
        return int(dt.datetime.fromisoformat(text).timestamp() * 1000) * (SECOND // 1000) - self.clock_offset


def fork(chance: random.Random) -> random.Random:
    """Return a new generator for events at uncertain times, so that the other events depend on the seed alone."""
    return random.Random(chance.random())
