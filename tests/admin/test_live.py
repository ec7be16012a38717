"""fmv/live.js in a real browser, at a server that says what each test wants."""

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fmv.devstack.stack import ROOT
from tests.conftest import wait_until

pytestmark = pytest.mark.browser

SCRIPT = ROOT / "fmv" / "static" / "fmv" / "live.js"
PAGE = """<!doctype html><html lang="en"><title>Live</title><body>
<div id="live" data-live="/news" data-live-seconds="0.05">{news}</div>
<div id="clock" data-live="/clock" data-live-seconds="0.05"></div>
<script type="module" src="/live.js"></script></body></html>"""


class Server:
    """Answers /news with whatever `say` was told last; `asked` counts. /clock ticks, to show that time has passed."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.first = ""
        self.say("")

    def say(self, text: str, status: int = 200, **headers: str) -> None:
        self.news = (status, text, headers)

    def answer(self, path: str) -> tuple[int, str, dict[str, str]]:
        self.asked[path] += 1
        if path == "/":
            return 200, PAGE.format(news=self.first), {}
        if path == "/live.js":
            return 200, Path(SCRIPT).read_text(), {"Content-Type": "text/javascript"}
        if path == "/clock":
            return 200, str(self.asked[path]), {}
        return self.news if path == "/news" else (200, "elsewhere", {})

    def time_passes(self) -> None:
        """Return when what is due has been asked for several times over."""
        until = self.asked["/clock"] + 5
        wait_until(lambda: self.asked["/clock"] >= until)


@pytest.fixture
def server() -> Iterator[Any]:
    said = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text, headers = said.answer(self.path)
            self.send_response(status)
            body = b"" if status == 204 else text.encode()
            for name, value in ({"Content-Type": "text/html; charset=utf-8"} | headers).items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        said.url = f"http://127.0.0.1:{listener.server_address[1]}"
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield said
        listener.shutdown()
        thread.join()


@pytest.fixture
def site(server) -> str:
    return server.url


@pytest.fixture
def show(visit, server):
    """Open the page with this as its first content: `show("<p>1</p>")`."""

    def open_page(first: str, **options: Any):
        server.first = first
        server.say(first)
        page = visit(**options)
        page.goto("/")
        return page

    return open_page


def text(page) -> str:
    return page.locator("#live").inner_text()


def test_what_changes_is_shown_and_what_does_not_is_not_touched(show, server):
    page = show('<p id="a">one</p><p id="b">two</p>')
    page.evaluate("document.querySelector('#a').mine = document.querySelector('#b').mine = true")
    server.say('<p id="a">one</p><p id="b" class="new">three</p>')
    page.wait_for_selector("#b.new")
    assert text(page).split() == ["one", "three"]
    assert page.evaluate("document.querySelector('#a').mine && document.querySelector('#b').mine")


def test_focus_a_half_filled_field_an_open_detail_and_scrolling_stay(show, server):
    rows = "".join(f"<p>{number}</p>" for number in range(60))
    form = (
        '<input name="word"><details><summary>More</summary>text</details><div id="box" tabindex="0">%s</div><b>%d</b>'
    )
    page = show(form % (rows, 1))
    page.evaluate("Object.assign(document.querySelector('#box').style, {height: '50px', overflow: 'auto'})")
    page.locator("summary").click()
    page.fill("input", "half a wo")
    page.evaluate("document.querySelector('#box').scrollTop = 200; window.scrollTo(0, 50)")
    server.say(form % (rows, 2))
    page.wait_for_selector("b:text-is('2')")
    assert page.evaluate("document.activeElement.name") == "word"
    assert page.input_value("input") == "half a wo"
    assert page.evaluate("document.querySelector('details').open")
    page.locator("summary").click()
    server.say(form % (rows, 3))
    page.wait_for_selector("b:text-is('3')")
    assert not page.evaluate("document.querySelector('details').open")


def test_rows_with_a_key_move_with_all_they_hold(show, server):
    def table(*keys: str) -> str:
        rows = "".join(f'<tr data-key="{key}"><td><button>{key}</button></td></tr>' for key in keys)
        return f"<table><tbody>{rows}</tbody></table>"

    page = show(table("a", "b", "c"))
    page.evaluate("document.querySelectorAll('tr').forEach((row) => (row.was = row.dataset.key))")
    page.locator("button:text-is('c')").focus()
    server.say(table("d", "c", "a"))
    page.wait_for_selector("[data-key=d]")
    order = page.evaluate("[...document.querySelectorAll('tr')].map((row) => [row.dataset.key, row.was || ''])")
    assert order == [["d", ""], ["c", "c"], ["a", "a"]]
    assert page.evaluate("document.activeElement.textContent") == "c"


def test_a_ticked_box_never_stands_for_another_row(show, server):
    def boxes(*values: str) -> str:
        return "".join(
            f'<p><input type="checkbox" name="pick" value="{value}" aria-label="{value}"></p>' for value in values
        )

    page = show(boxes("a", "b"))
    page.check("[value=b]")
    server.say(boxes("new", "a", "b"))
    page.wait_for_selector("[value=new]")
    ticked = page.evaluate("[...document.querySelectorAll('input:checked')].map((box) => box.value)")
    assert set(ticked) <= {"b"}


@pytest.mark.parametrize("end", ["204", "done"])
def test_it_ends_when_nothing_changes_any_more(end, show, server):
    page = show("<p>runs</p>")
    server.say("<p>over</p>", **{"204": {"status": 204}, "done": {"X_Live": "done"}}[end])
    wait_until(lambda: server.asked["/news"])
    server.time_passes()
    asked = server.asked["/news"]
    server.say("<p>again</p>")
    server.time_passes()
    assert server.asked["/news"] <= asked + 1  # the one that was under way when the server changed its mind
    assert text(page) == ("over" if end == "done" else "runs")


def test_a_lost_connection_is_said_and_forgotten_when_it_is_back(show, server):
    page = show("<p>1</p>", allow=(503,))
    server.say("<p>no</p>", status=503)
    page.wait_for_selector("#fmv-live:not([hidden])")
    assert "Connection lost since" in page.locator("#fmv-live").inner_text()
    assert page.locator("#fmv-live").get_attribute("role") == "status"
    assert text(page) == "1"
    assert "fmv-stale" in page.locator("#live").get_attribute("class")
    server.say("<p>2</p>")
    page.wait_for_selector("#live p:text-is('2')")
    page.wait_for_selector("#fmv-live", state="hidden")
    assert page.locator("#live").get_attribute("class") == ""


def test_the_pauses_grow_while_nobody_answers(show, server):
    page = show("<p>1</p>", allow=(500,))
    server.say("", status=500)
    page.wait_for_selector("#fmv-live:not([hidden])")
    failed = len(starts(page))
    wait_until(lambda: len(starts(page)) >= failed + 4)
    pauses = [later - earlier for earlier, later in pairwise(starts(page)[-4:])]
    assert all(pause > 0.99 * least for pause, least in zip(pauses, (100, 200, 400), strict=True)), pauses  # ms


def starts(page) -> list[float]:
    """Return when the browser began each request of /news, in ms: a busy machine only makes the pauses longer."""
    requests = "performance.getEntriesByType('resource').filter(entry => entry.name.endsWith('/news'))"
    return page.evaluate(f"{requests}.map(entry => entry.startTime)")


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (302, "You are signed out."),
        (403, "You are no longer allowed to see this."),
        (404, "This object no longer exists."),
    ],
)
def test_who_may_not_ask_stops_asking_and_is_told(status, said, show, server):
    page = show("<p>1</p>", allow=(status,))
    server.say("<p>sign in</p>", status=status, Location="/login")
    page.wait_for_selector("#fmv-live:not([hidden])")
    line = page.locator("#fmv-live")
    assert line.inner_text() == f"{said} Reload the page."
    assert line.locator("a").get_attribute("href") == f"{server.url}/"
    server.asked["/news"] = 0
    server.time_passes()
    assert server.asked["/news"] == server.asked["/login"] == 0
    assert text(page) == "1"


def test_nothing_is_asked_while_nobody_looks(visit, server):
    page = visit()
    page.add_init_script("Object.defineProperty(document, 'hidden', {get: () => window.away ?? true})")
    server.say("<p>news</p>")
    page.goto("/")
    page.evaluate("new Promise((over) => setTimeout(over, 500))")  # ten times as long as the pauses
    assert server.asked["/news"] == 0
    page.evaluate("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_selector("#live p")
