"""When robots were offline or out of service: robots.absences."""

import datetime as dt

import pytest

from fmv.mongodb.server import server_now
from robots import absences, agents, services
from robots.models import Absence, Robot, RobotState
from tasks import jobs
from tests.support.factories import make_robot
from tests.support.probes import listening

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = dt.timedelta(hours=1)


def noted():
    return sorted((each.robot, each.kind, each.ended is None) for each in Absence.objects.all())


def test_a_robot_that_is_taken_out_of_service_and_put_back():
    make_robot(name="R2")
    services.change("R2", by="fry", enabled=False)
    assert absences.note() == 1
    assert noted() == [("R2", "out_of_service", True)]
    absence = Absence.objects.get()
    assert absence.begun == Robot.objects.get().updated_at.replace(microsecond=absence.begun.microsecond)
    services.change("R2", by="fry", location="Hall 2")  # which changes nothing about it
    assert absences.note() == 0
    services.change("R2", by="fry", enabled=True)
    assert absences.note() == 1
    assert noted() == [("R2", "out_of_service", False)]
    services.change("R2", by="fry", enabled=False)
    absences.note()
    assert noted() == [("R2", "out_of_service", False), ("R2", "out_of_service", True)]


def test_a_robot_whose_agent_goes_and_comes_back():
    session = agents.open_session(make_robot(name="R2").name)
    assert absences.note() == 0
    agents.close_session("R2", session.id)
    absences.note()
    absence = Absence.objects.get()
    assert (absence.kind, absence.begun, absence.ended) == ("offline", RobotState.objects.get().since, None)
    agents.open_session("R2")
    absences.note()
    assert Absence.objects.get().ended == RobotState.objects.get().since


@pytest.mark.usefixtures("trusted_clock")
def test_the_periodic_steps_note_a_silent_robot():
    agents.open_session(make_robot(name="R2").name)
    RobotState.objects.update(last_seen=server_now() - HOUR)
    assert (jobs.notice_silent(), jobs.sample_robots()) == (1, 1)
    assert noted() == [("R2", "offline", True)]


def test_a_second_process_notes_the_same():
    make_robot(name="R2", enabled=False)
    absences.note()
    before = Absence.objects.get()
    Absence.objects.update(ended=server_now())
    absences.note()  # as if it had not seen the first
    assert Absence.objects.get() == before
    assert noted() == [("R2", "out_of_service", True)]


def test_a_deleted_robot_leaves_none():
    make_robot(name="R2", enabled=False)
    absences.note()
    services.delete("R2", by="fry")
    assert not Absence.objects.exists()


def test_any_number_of_robots_takes_few_commands():
    for _ in range(5):
        make_robot(enabled=False)
    for expected in (4, 3):
        with listening() as commands:
            absences.note()
        assert len(commands.sent) == expected, commands.sent


def test_old_absences_are_forgotten(settings):
    settings.ENVIRONMENT.audit_days = 2
    now = server_now()
    for hours in (1, 47, 49, None):
        ended = now - hours * HOUR if hours else None
        Absence.objects.create(id=str(hours), robot="R2", kind="offline", begun=now - 100 * HOUR, ended=ended)
    absences.forget()
    assert set(Absence.objects.values_list("pk", flat=True)) == {"1", "47", "None"}
    settings.ENVIRONMENT.audit_days = 0
    absences.forget()
    assert Absence.objects.count() == 3


def test_those_with_a_moment_in_a_span():
    at = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
    for name, begun, ended in (("a", 0, 2), ("b", 2, 4), ("c", 5, None), ("d", 0, None), ("e", 3, 3.5)):
        end = None if ended is None else at + ended * HOUR
        Absence.objects.create(id=name, robot="R2", kind="offline", begun=at + begun * HOUR, ended=end)
    found = Absence.objects.within(["R2"], at + 2 * HOUR, at + 5 * HOUR)
    assert [each.pk for each in found] == ["d", "b", "e"]
