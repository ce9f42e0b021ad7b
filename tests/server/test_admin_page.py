"""The status page in a real browser: it loads, sorts, runs a guest, moves, and takes hostile texts for texts."""

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import guest_component
from tests.running import write_components
from tests.server.admin import AdminServer
from tests.waiting import until

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install 'sandboxd[dev]'")

CHROMIUM = shutil.which("chromium")
HOSTILE = "<img src=x onerror=alert(1)>"
HOSTILE_NAME = "a<b>&\"'"

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install --no-install-recommends chromium"),
    pytest.mark.slow,  # a browser takes seconds to start
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of Playwright's own process
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminServer]:
    documents = [guest_component(name) for name in ("echo", "exit", "trap", "upper")]
    hostile = guest_component("stderr").replace("name: stderr", "name: " + repr(HOSTILE_NAME).replace("\\'", "''"))
    resources = write_components(tmp_path_factory.mktemp("page") / "components", [*documents, hostile])
    with AdminServer(resources, "--workers", "2", environ={"SANDBOXD_ADMIN_INVOKE": "true"}) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(server: AdminServer, browser: Any) -> Iterator[Any]:
    """The page, which must have caused no message of the console and no dialog when the test ends."""
    said: list[str] = []
    page = browser.new_page()
    page.set_default_timeout(60_000)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.goto(server.page_url)
    page.wait_for_selector("#bindings tbody tr")
    yield page
    page.close()
    # A violation of the policy is a message of the console.
    assert said == []


def holds(page: Any, expression: str) -> None:
    """Wait until an expression is true. Playwright's own way is `eval` within the page, which the policy forbids."""
    until(lambda: page.evaluate(expression), expression)


def names(page: Any) -> list[str]:
    found: list[str] = page.locator("#bindings tbody th").all_inner_texts()
    return found


def test_it_shows_the_bindings_and_sorts_them(server: AdminServer, page: Any) -> None:
    assert names(page) == sorted(["echo", "exit", "trap", "upper", HOSTILE_NAME])
    assert page.locator("#state").inner_text() == "READY"
    for _ in range(3):
        server.invoke("upper", "x")
    # By the keyboard, as somebody does who sees no pointer.
    page.get_by_role("button", name="Requests", exact=True).focus()
    page.keyboard.press("Enter")
    holds(page, "document.querySelector('#bindings tbody th').textContent === 'upper'")
    assert page.locator("#bindings th[aria-sort]").get_attribute("aria-sort") == "descending"
    assert page.evaluate("document.activeElement.textContent") == "Requests"


def test_a_number_moves(server: AdminServer, page: Any) -> None:
    cell = "document.querySelector('#bindings tbody tr:first-child td[data-name=Requests]').textContent"
    holds(page, f"Number({cell}) >= 0")
    before = int(page.evaluate(cell))
    first = names(page)[0]
    for _ in range(2):
        server.try_it(first, "x")
    holds(page, f"Number({cell}) >= {before + 2}")


def test_a_guest_is_tried(page: Any) -> None:
    page.get_by_role("link", name="echo", exact=True).click()
    holds(page, "document.getElementById('binding-name').textContent === 'echo'")
    holds(page, "document.activeElement.id === 'binding-name'")
    page.get_by_label("Data (JSON, or a text)").fill(HOSTILE)
    page.get_by_role("button", name="Run").click()
    page.wait_for_selector("#try-result pre")
    assert page.locator("#try-result p").first.inner_text().startswith("completed")
    assert json.loads(page.locator("#try-result pre").first.inner_text()) == HOSTILE
    assert "curl -d" in page.locator("#try-result pre").last.inner_text()
    assert page.locator("#component").inner_text().count("memoryLimit") == 1


def test_hostile_names_and_stderr_are_text(server: AdminServer, page: Any) -> None:
    server.try_it("exit", 1, {"argv": f'["3", "out", "{HOSTILE}"]'})
    server.try_it(HOSTILE_NAME, 1)
    page.get_by_role("link", name=HOSTILE_NAME, exact=True).click()
    holds(page, "document.getElementById('binding').hidden === false")
    assert page.locator("#binding-name").inner_text() == HOSTILE_NAME
    page.goto(server.page_url + "#binding/exit")
    page.wait_for_selector("#binding article pre")
    holds(page, "document.getElementById('binding-name').textContent === 'exit'")
    assert HOSTILE in page.locator("#binding .failures").inner_text()
    assert page.locator("main img").count() == 0


def test_what_cannot_be_seen_is_shown(server: AdminServer, page: Any) -> None:
    """Bidirectional controls, zero-width characters and controls: Unicode's category C."""
    hidden = "\u202egnp.\u2066exe\u200b\x1b[2J\x9b\u2028"
    server.try_it("exit", 1, {"argv": json.dumps(["3", "out", hidden])})
    page.get_by_role("link", name="exit", exact=True).click()
    failures = page.locator("#binding .failures")
    until(lambda: "gnp." in failures.inner_text(), "the failure is there")
    text = failures.inner_text()
    assert r"\u{202e}gnp.\u{2066}exe\u{200b}\u{1b}[2J\u{9b}\u{2028}" in text
    assert set(hidden) & set(text) <= set("gnp.ex[2J")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen(server: AdminServer, browser: Any, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page = context.new_page()
    page.goto(server.page_url)
    page.wait_for_selector("#bindings tbody tr")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.goto(server.page_url + "#binding/echo")
    holds(page, "document.getElementById('binding').hidden === false")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(18, 24, 22)") is (scheme == "dark")
    context.close()
