"""A migration builds its indexes however long that takes; whatever else asks gives up earlier."""

import copy

import pytest
from django.db import connection, models
from pymongo.errors import NetworkTimeout, OperationFailure

from fmv.mongodb.base import DatabaseWrapper
from robots.models import Robot
from tasks.models import Task
from tests.support.factories import make_task

pytestmark = pytest.mark.django_db(transaction=True)

INDEX = models.Index(fields=["message"], name="by_message")


@pytest.fixture
def impatient():
    """A connection that waits a thousandth of a second for each answer."""
    settings = copy.deepcopy(connection.settings_dict)
    settings["OPTIONS"] |= {"socketTimeoutMS": 1}
    own = DatabaseWrapper(settings, "impatient")
    yield own
    own.close_pool()


def test_an_index_takes_as_long_as_it_takes(impatient):
    robot = "Bender"
    make_task(robot=robot)
    Task.objects.bulk_create(Task(robot=robot, handler="wait", timeout=30.0, message="m" * 500) for _ in range(3000))
    with pytest.raises(NetworkTimeout):
        impatient.get_collection(Task._meta.db_table).create_index("message", name="by_message")
    with impatient.schema_editor() as editor:
        editor.add_index(Task, INDEX)
    assert "by_message" in connection.get_collection(Task._meta.db_table).index_information()
    with impatient.schema_editor() as editor:
        editor.remove_index(Task, INDEX)
    with pytest.raises(NetworkTimeout):
        list(impatient.get_collection(Task._meta.db_table).aggregate([{"$sort": {"message": 1}}]))


def located(**options):
    field = models.CharField(max_length=64, **options)
    field.set_attributes_from_name("location")
    field.model = Robot
    return field


@pytest.mark.parametrize("option", ["db_index", "unique"])
def test_a_field_that_lost_its_index_already_may_lose_it_again(option):
    before = connection.get_collection("robots_robot").index_information()
    with connection.schema_editor() as editor:
        editor.alter_field(Robot, located(), located(**{option: True}))
        editor.alter_field(Robot, located(), located(**{option: True}))
        assert len(connection.get_collection("robots_robot").index_information()) == len(before) + 1
        editor.alter_field(Robot, located(**{option: True}), located())
        editor.alter_field(Robot, located(**{option: True}), located())
    assert connection.get_collection("robots_robot").index_information() == before


def test_what_was_added_renamed_or_removed_may_be_so_again():
    before = connection.get_collection("tasks_task").index_information()
    connection.database["fmv_before"].insert_one({"_id": 1})
    with connection.schema_editor() as editor:
        for _ in range(2):
            editor.create_model(Task)
            editor.add_index(Task, INDEX)
        for _ in range(2):
            editor.remove_index(Task, INDEX)
            editor.alter_db_table(Task, "fmv_before", "fmv_after")
    assert connection.get_collection("tasks_task").index_information() == before
    assert connection.database["fmv_after"].find_one() == {"_id": 1}
    connection.database["fmv_after"].drop()


def test_another_refusal_is_none_of_that(fail_command):
    fail_command("dropIndexes", errorCode=13)
    with connection.schema_editor() as editor, pytest.raises(OperationFailure):
        editor.remove_index(Task, INDEX)
