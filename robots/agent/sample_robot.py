"""A robot that is simulated: an example for your own, and the sample robots of `make run`.

python3 sample_robot.py https://fleet.example.org
"""

import itertools
import math
import random
import threading
import time

from fmv_agent import main, skill, state

TICK = 0.1  # seconds
STROLL = 0.4  # metres a second


class SimulatedRobot:
    """A robot that drives in straight lines, and strolls about its hall when it has nothing to do."""

    def __init__(self):
        self.x, self.y, self.theta, self.speed = random.uniform(0, 20), random.uniform(0, 10), 0.0, 0.0
        self._charge, self._since = random.uniform(60, 95), time.monotonic()
        self._lock = threading.Lock()
        self.wheels = threading.Lock()  # of whoever drives: a task, or else the stroll

    def stroll(self):
        """Drive slowly from place to place, with pauses to charge, while no task drives."""
        while True:
            x, y = random.uniform(0, 20), random.uniform(0, 10)
            while (left := math.hypot(x - self.x, y - self.y)) > 0.001:
                with self.wheels:
                    self.turn_to(x, y)
                    self.move(min(TICK, left / STROLL), STROLL)
                time.sleep(TICK)
            with self.wheels:
                self.speed = 0.0
            time.sleep(random.uniform(5, 15))

    def turn_to(self, x, y):
        self.theta = math.atan2(y - self.y, x - self.x)

    def move(self, seconds, speed):
        self.x += math.cos(self.theta) * speed * seconds
        self.y += math.sin(self.theta) * speed * seconds
        self.speed = speed

    def charge(self):
        """Return the charge in per cent: driving takes 2 % a minute, standing gives 4 %."""
        with self._lock:
            minutes = (time.monotonic() - self._since) / 60
            self._since += 60 * minutes
            self._charge = min(100.0, max(5.0, self._charge + minutes * (-2 if self.speed else 4)))
            return self._charge


robot = SimulatedRobot()


@skill("drive", resume=True)
def drive(task):
    """Drive to `x`, `y` with `speed`. A checkpoint is where the robot stands: after a restart it would not know."""
    with robot.wheels:
        return drive_to(task)


def drive_to(task):
    if task.saved:
        robot.x, robot.y = task.saved
    x, y, speed = task.params["x"], task.params["y"], task.params["speed"]
    way = math.hypot(x - robot.x, y - robot.y)
    task.log(f"From {robot.x:.1f}, {robot.y:.1f} to {x:.1f}, {y:.1f}: {way:.1f} m")
    ticks = itertools.count()
    try:
        while (left := math.hypot(x - robot.x, y - robot.y)) > 0.001:
            if next(ticks) % 10 == 0:
                task.checkpoint([robot.x, robot.y])
            robot.turn_to(x, y)
            robot.move(min(TICK, left / speed), speed)
            task.progress(100 * (1 - left / way), f"{left:.1f} m to go")
            task.sleep(TICK)  # raises Stopped when the task is to end
    finally:
        robot.speed = 0.0
    return {"x": round(robot.x, 2), "y": round(robot.y, 2), "distance": round(way, 2)}


@state
def look():
    return {
        "battery": {"charge": round(robot.charge(), 1), "charging": not robot.speed},
        "position": {
            "map": "hall",
            "x": round(robot.x, 2),
            "y": round(robot.y, 2),
            "theta": round(robot.theta, 2),
            "localized": True,
        },
        "velocity": {"linear": robot.speed, "angular": 0.0},
        "driving": robot.speed > 0,
        "mode": "automatic",
        "emergency_stop": "none",
        "errors": [],
    }


if __name__ == "__main__":
    threading.Thread(target=robot.stroll, daemon=True).start()
    main()
