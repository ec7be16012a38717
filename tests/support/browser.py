"""A real browser: Debian's Chromium, driven by Playwright, at a real web server.

    @pytest.mark.browser
    def test_…(visit):
        page = visit("operator", size="phone", theme="dark")
        page.goto("/admin/")
        assert_accessible(page)

After the test nothing may have gone wrong that the browser noticed: no error on the console or in a script, nothing
that the content security policy stopped, no request that failed.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
SIZES = {"desk": {"width": 1440, "height": 900}, "phone": {"width": 390, "height": 844}}
SEVERE = ("serious", "critical")
#: faults that axe calls moderate, or looks for only if it is told to
ALSO = ("label-content-name-mismatch", "landmark-unique", "landmark-one-main", "page-has-heading-one")

#: CSP violations of every kind reach the console
WATCH_POLICY = """addEventListener("securitypolicyviolation", (event) =>
  console.error("policy:", event.violatedDirective, event.blockedURI, event.sourceFile, event.lineNumber))"""


@pytest.fixture(scope="session")
def browser(django_db_setup) -> Iterator:
    from django.db import connections
    from playwright.sync_api import sync_playwright

    # Playwright keeps an event loop running in this thread. Inside one, Django refuses queries, and asgiref shows
    # other connections: tests would close the MongoClient that the teardown of the database still uses.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    connection = connections["default"]
    with sync_playwright() as playwright:
        connections["default"] = connection
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield chromium
        chromium.close()
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture
def site(web) -> str:
    """The address of the web server; a module whose tests need another environment has a `site` of its own."""
    return web(os.environ["FMV_BROKER_URL"], FMV_DEBUG="1", FMV_WEB_PROCESSES="1")


@pytest.fixture
def visit(browser, site) -> Iterator[Callable]:
    """Open a page signed in as the user, or as a new one with the role, or as nobody: `visit("viewer")`.

    `allow` holds the statuses from 400 on that this page may meet; `options` are Playwright's, such as `timezone_id`.
    Addresses may be relative.
    """
    contexts, problems = [], []

    def open_page(who=None, *, size="desk", theme="light", allow=(), **options):
        context = browser.new_context(
            base_url=site,
            viewport=SIZES[size],
            color_scheme=theme,
            has_touch=size == "phone",
            reduced_motion="reduce",  # or axe would judge the colours of a change half done
            **options,
        )
        contexts.append(context)
        context.set_default_timeout(20_000)
        context.add_init_script(WATCH_POLICY)
        if who is not None:
            context.add_cookies([{"name": "sessionid", "value": session_of(who), "url": site}])
        page = context.new_page()
        watch(page, problems, allow)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems, "\n".join(problems)


def session_of(who) -> str:
    """Sign the user in, or a new one with this role, and return the key of the session."""
    from fmv.accounts.models import User
    from tests.support.factories import make_session, make_user

    return make_session(who if isinstance(who, User) else make_user(who, password=None))


def watch(page, problems: list[str], allow) -> None:
    """Note in `problems` what goes wrong on the page."""

    def on_console(message) -> None:
        # A request that was answered with an error is noted, or allowed, as a response.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            problems.append(f"{page.url}: console: {message.text}")

    def on_response(response) -> None:
        if response.status >= 400 and response.status not in allow:
            problems.append(f"{page.url}: {response.status} from {response.url}")

    def on_failed(request) -> None:
        if request.failure != "net::ERR_ABORTED":  # the page was left before the answer came
            problems.append(f"{page.url}: {request.failure} at {request.url}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: problems.append(f"{page.url}: {error}"))
    page.on("response", on_response)
    page.on("requestfailed", on_failed)


def assert_accessible(page) -> None:
    """axe-core finds no serious or critical fault and none of ALSO on the page as it is, in its size and colours."""
    import axe_playwright_python

    if not page.evaluate("typeof axe === 'object'"):
        page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text())
    # Without "preload" it does not fetch the style sheets anew, which the policy would stop.
    options = {"resultTypes": ["violations"], "preload": False, "rules": {name: {"enabled": True} for name in ALSO}}
    found = page.evaluate("options => axe.run(document, options)", options)["violations"]
    faults = [
        f"{fault['id']}: {node['target']}: {node['failureSummary']}"
        for fault in found
        if fault["impact"] in SEVERE or fault["id"] in ALSO
        for node in fault["nodes"]
    ]
    assert not faults, f"{page.url}\n" + "\n".join(faults)


def assert_fits(page) -> None:
    """Nothing makes the page itself wider than the window."""
    width, window = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= window, f"{page.url} is {width} wide in a window of {window}"


def assert_fine(page) -> None:
    """The page fits, and is accessible in light and dark."""
    assert_fits(page)
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        assert_accessible(page)
