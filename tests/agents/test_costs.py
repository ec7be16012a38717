"""How many commands to MongoDB each request of an agent costs, without the two for its token and `last_seen`."""

import pytest

from tasks.queue import services
from tests.support.agent_requests import Agent, submit
from tests.support.factories import make_robot
from tests.support.probes import listening

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]

STATE = "find robots_robotstate"
READ = "aggregate tasks_task"
FIND = "find tasks_task"
WRITE = "update tasks_task"
NEXT = READ  # whose turn it is
COUNTER = "findAndModify fmv_counter"

#: what is done -> what it costs
COSTS = {
    "claim, without a task": (lambda agent: agent.claim(), [STATE, READ, READ]),
    "claim": (lambda agent: agent.claim(), [STATE, READ, READ, WRITE, STATE]),
    "renew": (lambda agent: agent.renew(progress=5, message="on the way", checkpoint={"leg": 1}), [WRITE, FIND]),
    "renew, when a cancel is asked for": (lambda agent: agent.renew(), [WRITE, FIND, FIND]),
    "log": (lambda agent: agent.log(0, "one", "two"), [FIND, "aggregate tasks_logline", "insert tasks_logline"]),
    "finish": (lambda agent: agent.finish(result={"degrees": 1}), [FIND, WRITE, NEXT, FIND]),
    "finish again": (lambda agent: agent.finish(result={"degrees": 1}), [FIND]),
    "fail": (lambda agent: agent.finish("failed"), [FIND, WRITE, NEXT, FIND]),
    "release": (lambda agent: agent.release(delay=5), [FIND, WRITE, NEXT, FIND]),
    "report": (
        lambda agent: agent.api("PUT", "/agent/state", {"session": agent.session, "battery": {"charge": 50}}),
        ["find robots_robot", "update robots_robotstate"],
    ),
    "say goodbye": (
        lambda agent: agent.api("DELETE", "/agent/session", {"session": agent.session}),
        ["update robots_robotstate"],
    ),
    "sign in": (
        lambda agent: agent.sign_in(),
        ["findAndModify robots_robotstate", "find robots_robot", READ, READ, NEXT],
    ),
    "sign in after a restart": (
        lambda agent: agent.restarted(),
        ["findAndModify robots_robotstate", "find robots_robot", COUNTER, READ, STATE, WRITE, READ, READ, NEXT],
    ),
}


@pytest.mark.parametrize("name", COSTS)
def test_each_request_has_its_price(name):
    act, price = COSTS[name]
    agent = Agent.signed_in(make_robot())
    agent.claim()  # the use of a token is stored once a minute, and `last_seen` every few seconds
    submit(agent.robot)
    if not name.startswith("claim"):
        agent.take()
    elif "without" in name:
        agent.take()
        agent.finish(result={"degrees": 1})
    if "cancel" in name:
        services.cancel(agent.task, by="fry")
    if "again" in name:
        agent.finish(result={"degrees": 1})
    with listening() as commands:
        assert act(agent).status_code in (200, 204)
    assert [sent for sent in commands.sent if "apitoken" not in sent] == price
