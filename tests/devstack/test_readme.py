"""The documents agree with the code."""

import re
from pathlib import Path

import pytest

from fmv.environment import Environment

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
OPERATIONS = (ROOT / "fmv" / "OPERATIONS.md").read_text()
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *(str(path.relative_to(ROOT)) for path in ROOT.glob("[frt]*/**/*.md"))]


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

    rows = re.findall(r"^\| (`python manage.py .*?) \|", OPERATIONS, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(?:python manage.py )?([a-z_]+)", row)}
    assert named == {name for name, app in get_commands().items() if app in ("fmv", "robots", "tasks")}


def test_the_readme_is_read_in_a_few_minutes():
    """What only some readers need stands in the documents that it names."""
    assert len(README.encode()) <= 15_360


SOURCES = [path for room in ("fmv", "robots", "tasks") for path in (ROOT / room).rglob("*.py")]
#: is copied to robots as it is, so it is one file
COPIED = ROOT / "robots" / "agent" / "fmv_agent.py"


def test_no_source_file_is_longer_than_400_lines():
    long = [path for path in SOURCES if path != COPIED and len(path.read_text().splitlines()) > 400]
    assert [str(path.relative_to(ROOT)) for path in long] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_to_a_file(document):
    text = (ROOT / document).read_text()
    links = re.findall(r"""(?:\]\(|src=")([^)"#:]+)(?:#[^)"]*)?[)"]""", text)
    assert [link for link in links if not (ROOT / document).parent.joinpath(link).exists()] == []
