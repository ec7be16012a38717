"""The robot of the tests: its skills leave marks in a file, as tests.support.event_marks does. Runs with Python 3.8.

python marking_robot.py URL --home DIRECTORY, with the directory of fmv_agent.py in PYTHONPATH
"""

import itertools
import json
import os
import sys
import threading
import time
from pathlib import Path

from fmv_agent import NotNow, PermanentError, Stopped, main, skill, state


def mark(task, *words):
    where = (os.getpid(), repr(task.robot), task.id, task.attempt)
    line = " ".join(map(str, (time.monotonic_ns(), words[0], *where, *words[1:]))) + "\n"
    file = os.open(task.params["file"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, line.encode())
    os.close(file)


@skill("robot.mark")
def leave_marks(task):
    """Mark start and end, last `seconds`, fail in the first `fail` attempts; with `how` end in another way."""
    mark(task, "start")
    last = "interrupted"
    try:
        task.log("begins")
        (time if task.params["how"] == "deaf" else task).sleep(task.params["seconds"])
        if task.params["how"] == "late":
            threading.Thread(target=store_for_ever, args=(task,), daemon=True).start()
        last = "end"
    except Stopped:
        last = "stopped"
        raise
    finally:
        mark(task, last, *([task.reason.replace(" ", "-")] if task.reason else []))
    if task.attempt <= task.params["fail"]:
        raise ValueError(f"attempt {task.attempt} fails, as asked")
    return END[task.params["how"]]()


def store_for_ever(task):
    for number in itertools.count():
        task.checkpoint(number)
        time.sleep(0.01)


def never():
    raise PermanentError("never")


def not_now():
    raise NotNow("the door is locked", delay=0.5)


END = {
    "": lambda: {"pid": os.getpid()},
    "deaf": lambda: {"pid": os.getpid()},
    "late": lambda: {"pid": os.getpid()},
    "never": never,
    "not now": not_now,
    "no json": object,
    "exit": lambda: sys.exit(3),
}
END["large"] = lambda: "x" * (2 * 1024 * 1024)


skill("robot.strict")(leave_marks)
skill("robot.careful")(leave_marks)


@skill("robot.steps", resume=True)
def take_steps(task):
    """Mark each step once, also over restarts."""
    for step in range(task.saved or 0, task.params["steps"]):
        mark(task, "step", step)
        task.checkpoint(step + 1)
        task.log(f"step {step}")
        task.progress(100 * (step + 1) / task.params["steps"], f"step {step}")
        task.sleep(task.params["seconds"])
    return {"resumed": task.resumed}


@skill("robot.walk", resume=True)
def walk(task):
    """Take steps, and mark start and end of each time that this is called."""
    mark(task, "start")
    last = "interrupted"
    try:
        result = take_steps(task)
        last = "end"
    finally:
        mark(task, last)
    return result


@state
def look():
    """Return what the test has written to the file that STATE names."""
    path = Path(os.environ.get("STATE", ""))
    return json.loads(path.read_text()) if path.is_file() else {"battery": {"charge": 50.0, "charging": False}}


if __name__ == "__main__":
    main()
