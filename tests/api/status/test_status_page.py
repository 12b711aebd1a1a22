"""The page in a real browser: what it shows, to whom, and that nothing of clients is taken for HTML."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pensieve.api.config import ServerConfig

from ...browser import CHROMIUM, Page, browser
from ..conftest import StartServer, wait_until
from ..reports.conftest import Scheduled, scheduled  # noqa: F401  (a fixture)
from ..reports.test_causes import FIRST

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path (Debian: apt-get install chromium)"),
]

HOSTILE = "<img src=x onerror=hacked=1>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def shows(page: Page, script: str) -> Callable[[], bool]:
    """Return a condition: that an expression is true in the page."""
    return lambda: page.value(f"!!({script})") is True


def text(page: Page, selector: str) -> Any:
    return page.value(f"document.querySelector({selector!r}).innerText")


def test_people_see_sessions_and_requests_as_they_come(
    page: Page,
    scheduled: Scheduled,  # noqa: F811  (the fixture)
) -> None:
    page.problems.clear()
    page.resize(1280, 900)
    page.open(f"http://127.0.0.1:{scheduled.port}/")
    wait_until(shows(page, "document.querySelector('#live')?.textContent === 'live'"))
    wait_until(shows(page, "document.querySelectorAll('.tile').length >= 5"))
    assert "No session has sent a request yet" in text(page, "#sessions")
    assert page.value("document.querySelector('#connect').open") is True
    asked = scheduled.ask(HOSTILE, system=f"working directory: /home/u/{HOSTILE}\n", messages=FIRST)
    assert asked.status_code == 200
    wait_until(shows(page, "document.querySelectorAll('#request-rows tr').length === 1"))
    wait_until(shows(page, "document.querySelector('#request-rows').textContent.includes('stop')"))
    assert HOSTILE in text(page, "#session-rows")
    assert "new conversation" in text(page, "#request-rows")
    assert page.value("document.querySelectorAll('img').length") == 0
    assert page.value("typeof hacked") == "undefined"
    wait_until(shows(page, "document.querySelectorAll('#turn circle').length === 1"))
    assert page.problems == []
    for width in (1280, 760, 360):
        page.resize(width, 800)
        wait_until(shows(page, f"innerWidth === {width}"))
        assert page.value("document.documentElement.scrollWidth") <= width
    colours = []
    for scheme in ("light", "dark"):
        page.prefer(scheme)
        colours.append(page.value("getComputedStyle(document.body).backgroundColor"))
    assert len(set(colours)) == 2


def test_the_key_is_asked_for_once_and_kept_in_memory_alone(page: Page, start_server: StartServer) -> None:
    server = start_server(config=ServerConfig(api_key="s3cret"))
    page.open(server.url)
    wait_until(shows(page, "document.querySelector('#key')?.hidden === false"))
    assert page.value("document.activeElement.type") == "password", "a keyboard is enough"
    for key, found in (("wrong", "does not accept"), ("s3cret", "")):
        page.send("Input.insertText", text=key)
        for kind in ("keyDown", "keyUp"):
            page.send("Input.dispatchKeyEvent", type=kind, key="Enter", windowsVirtualKeyCode=13, text="\r")
        if found:
            wait_until(shows(page, f"document.querySelector('#key').innerText.includes({found!r})"))
    wait_until(shows(page, "document.querySelectorAll('.tile').length >= 5"))
    assert page.value("document.querySelector('#key').hidden") is True
    kept = "[document.cookie, localStorage.length, sessionStorage.length, location.href.includes('s3cret')]"
    assert page.value(kept) == ["", 0, 0, False]
    assert "s3cret" not in page.value("document.documentElement.outerHTML")


def test_a_page_that_loses_its_server_says_so(page: Page, start_server: StartServer) -> None:
    server = start_server()
    page.open(server.url)
    wait_until(shows(page, "document.querySelectorAll('.tile').length >= 5"))
    server.scheduler.state = "stopping"
    wait_until(shows(page, "document.querySelector('#live').textContent.includes('trying again')"))
    assert page.value("document.body.classList.contains('stale')") is True
    server.scheduler.state = "ok"
    wait_until(shows(page, "document.querySelector('#live').textContent === 'live'"))
