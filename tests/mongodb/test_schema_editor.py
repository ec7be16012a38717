"""A migration builds its indexes however long that takes; whatever else asks gives up earlier."""

import copy

import pytest
from django.db import connection, models
from pymongo.errors import NetworkTimeout

from fmv.mongodb.base import DatabaseWrapper
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
