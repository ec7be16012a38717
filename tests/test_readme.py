"""The README says what is so."""

import re
from pathlib import Path

from fmv.environment import Environment

README = (Path(__file__).parent.parent / "README.md").read_text()


def row(field) -> str:
    default = field.default
    if isinstance(default, bool):
        default = int(default)
    elif isinstance(default, list):
        default = ",".join(default)
    shown = f"`{default}`" if default != "" else ""
    return f"| `{field.alias}` | {shown} | {field.description} |"


def test_the_table_of_variables_is_what_the_environment_reads():
    table = re.findall(r"^\| `(?:FMV_|MONGODB_).*$", README, re.MULTILINE)
    assert table == [row(field) for field in Environment.model_fields.values()]


def test_every_command_of_the_maintenance_table_exists():
    from django.core.management import get_commands

    named = re.findall(r"^\| `python manage.py (\w+)", README, re.MULTILINE)
    assert named
    assert set(named) <= set(get_commands())
