"""Hidden characters: none reaches a page, a terminal or a log as it is."""

import json
import logging
import re
import sys
import unicodedata
from datetime import UTC, datetime
from io import StringIO

import honcho.printer
import pytest

from fmv import audit
from fmv.devstack.stack import Printer
from fmv.escaping import visible, visible_html, visible_lines
from fmv.monitoring.logs import JSONFormatter, TextFormatter
from tasks.models import LogLine
from tests.support.factories import make_robot, make_task
from tests.support.pages import ROBOTS, TASKS, admin, robot_url, task_url, text

HIDDEN = "\0\x1b[2J\u202e\u200b\x7f\x9b"
SHOWN = r"\u0000\u001b[2J\u202e\u200b\u007f\u009b"


def test_every_character_that_shows_nothing_is_hidden():
    categories = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    expected = {chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) in categories}
    expected -= {
        "\u200c",
        "\u200d",
        *"\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd",
    }
    found = {chr(code) for code in range(sys.maxunicode + 1) if visible(chr(code)) != chr(code)}
    newer = {char for char in found - expected if unicodedata.category(char) == "Cn"}  # than this Python's Unicode
    assert found - newer == expected
    assert len(newer) < 20


def test_it_is_escaped_as_in_json():
    assert visible("plain é 🤖 \u3000👩‍👧") == "plain é 🤖 \u3000👩‍👧"
    assert visible(f"two\n{HIDDEN}\t") == rf"two\n{SHOWN}\t"
    assert visible_lines(f"two\n{HIDDEN}\t") == f"two\n{SHOWN}\t"
    assert json.loads(visible(json.dumps(f"\U000e0041{HIDDEN}", ensure_ascii=False))) == f"\U000e0041{HIDDEN}"


def test_form_fields_of_a_page_keep_what_they_hold():
    fields = '<textarea name="a">\u200f\n</textarea><input value="\u202e"><option value="\u200b">'
    assert visible_html(f"<p title='\u202e'>{fields}\u200e</p>") == rf"<p title='\u202e'>{fields}\u200e</p>"


@pytest.mark.django_db
def test_no_page_of_the_admin_shows_it_raw():
    make_robot(name="R2", location=f"L{HIDDEN}", description=HIDDEN, labels=[HIDDEN])
    error = {"type": "Broken", "message": HIDDEN, "traceback": HIDDEN}
    fields = {"robot": "R2", "params": {"path": HIDDEN}, "labels": [HIDDEN], "requested_by": f"by {HIDDEN}"}
    task = make_task(status="FAILURE", error=error, message=HIDDEN, result=[HIDDEN], **fields)
    LogLine.objects.create(task=task.pk, attempt=1, text=f"first\n{HIDDEN}")
    audit.record("robot.change", by=f"by {HIDDEN}", kind="robot", key="R2", text=HIDDEN)
    client = admin(is_superuser=True)
    pages = [ROBOTS, robot_url("R2"), TASKS, task_url(task), "/admin/fmv/auditentry/", f"{task_url(task)}?log=1"]
    for page in pages:
        shown = re.sub(r"<(input|option)\b[^>]*>", "", text(client.get(page)))
        assert not set("\0\x1b\u202e\u200b\x7f\x9b") & set(shown), page
        assert r"\u202e" in shown, page


def test_no_log_line_has_it_raw():
    record = logging.LogRecord("a", logging.INFO, "", 0, f"said {HIDDEN}\n", (), None)
    assert TextFormatter("%(message)s").format(record) == f"said {SHOWN}\n"
    line = JSONFormatter().format(record)
    assert line.isprintable()
    assert json.loads(line)["message"] == f"said {HIDDEN}\n"


@pytest.mark.parametrize("line", [f"said {HIDDEN}\n", f"said {HIDDEN}\n".encode()])
def test_make_run_prints_no_line_with_it(line):
    output = StringIO()
    Printer(output).write(honcho.printer.Message("line", line, datetime.now(UTC), "web", None))
    assert output.getvalue().endswith(f"said {SHOWN}\n")
