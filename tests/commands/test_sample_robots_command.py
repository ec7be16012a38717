from io import StringIO

import pytest
from django.core.management import call_command

from robots.models import Robot
from tests.support.factories import make_robot

pytestmark = pytest.mark.django_db


def test_it_adds_the_three_robots_of_the_first_backend():
    call_command("sample_robots", stdout=StringIO())
    assert list(Robot.objects.values_list("name", "is_great", "location", "description")) == [
        ("Bender", True, "Earth", "Please insert girder"),
        ("Crow T. Robot", False, "Satellite of Love", "You know you want me baby"),
        ("Wall-E", False, "Earth", "Waste Allocation Load Lifter: Earth-class"),
    ]


def test_it_leaves_existing_robots_as_they_are():
    make_robot(name="Wall-E", location="The Axiom")
    out = StringIO()
    call_command("sample_robots", stdout=out)
    assert out.getvalue().splitlines() == ["Added Bender.", "Added Crow T. Robot.", "Wall-E exists already."]
    assert Robot.objects.get(pk="Wall-E").location == "The Axiom"
