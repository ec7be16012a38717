"""The README says what is so."""

import re
from pathlib import Path

from fmv.environment import Environment

README = (Path(__file__).parents[2] / "README.md").read_text()


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


def test_the_table_of_commands_names_all_of_ours_and_no_other():
    from django.core.management import get_commands

    rows = re.findall(r"^\| (`python manage.py .*?) \|", README, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(?:python manage.py )?([a-z_]+)", row)}
    assert named == {name for name, app in get_commands().items() if app in ("fmv", "robots", "tasks")}
