"""The page in a real browser: each view, its keys, and that no text in it ever runs."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from moa import Graph, serve
from moa.studio.app import mount, studio_app
from moa.studio.labels import Labels
from moa.studio.learning import Learning
from moa.studio.report import write_report
from moa.studio.sources import Source, View, find_source
from moa.studio.trials import Trials
from studio.lines import HOSTILE, row, shop, spans, written

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER and find_spec("selenium")),
        reason="it takes Chromium, its driver and selenium: apt-get install chromium-driver",
    ),
    pytest.mark.timeout(180),
]
FLAGS = (
    *("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-dev-shm-usage"),
    *("disable-background-networking", "disable-component-update", "disable-sync"),
)
DESKTOP, PHONE = (1280, 800), (390, 800)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options: Any = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made: Any = webdriver.Chrome(options, Service(DRIVER))
    yield made
    made.quit()


@pytest.fixture
def page(driver: Any) -> Iterator[Page]:
    made = Page(driver)
    yield made
    # A request that a click overtook is no fault of the page.
    assert [one for one in made.complaints() if "Policy" in one or "Uncaught" in one] == []


class Page:
    """What one does with the page."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.size(DESKTOP)
        driver.get_log("browser")

    def size(self, size: tuple[int, int], *, dark: bool = False) -> None:
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def open(self, address: str, view: str = "") -> None:
        self.driver.get("about:blank")
        self.driver.get(f"{address}{view}")
        self.until(lambda: self.all(".view:not([hidden])"))

    def run(self, script: str, *given: object) -> Any:
        return self.driver.execute_script(script, *given)

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        self.until(lambda: self.all(selector))
        return self.all(selector)[0]

    def text(self, selector: str) -> str:
        return self.one(selector).text

    def ids(self) -> list[str]:
        found = "return [...document.querySelectorAll('.body .row')].map(r => [r, r.offsetTop])"
        rows = sorted(self.run(found), key=lambda one: one[1])
        return [one.find_element("css selector", ".id").text for one, _ in rows]

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def until(self, holds: Callable[[], Any], seconds: float = 20) -> None:
        from selenium.common.exceptions import StaleElementReferenceException

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if holds():
                    return
            except StaleElementReferenceException:
                pass
            time.sleep(0.05)
        pytest.fail(f"it never holds; the page says {self.text('body')[:800]}")

    def complaints(self) -> list[str]:
        """What the browser complains of: errors of scripts, and what the policy refused."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def faults(self) -> list[str]:
        """What axe finds wrong."""
        import axe_core_python

        script = Path(axe_core_python.__file__).parent / "axe.min.js"
        if not self.run("return Boolean(window.axe)"):
            self.run(script.read_text("utf-8"))
        found = self.driver.execute_async_script(
            "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']})"
            ".then((found) => done(found.violations))"
        )
        return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]


@contextmanager
def running(app: Any) -> Generator[str]:
    """Run an application on a socket of this machine; give its address."""
    config = uvicorn.Config(app, port=0, log_level="error", ws="none", lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/studio/"
    finally:
        server.should_exit = True
        thread.join()


def shouting() -> Any:
    """Make a graph of one node, which asks nobody."""
    g = Graph("shop", str)

    async def intent(text: str) -> str:
        await asyncio.sleep(0.05)
        return text.upper()

    return g.build(g.add(intent, g.input))


def asking() -> Any:
    """Make a graph that asks a person twice."""
    g = Graph("shop", str)

    async def intent(text: str) -> str:
        return text.upper()

    def letter(text: str, sends: bool, to: str) -> str:
        return f"{text} to {to}" if sends else "not sent"

    said = g.add(intent, g.input)
    sends = g.ask_human(lambda text: f"Send {text}?", said, answer=bool, name="approve")
    to = g.ask_human("To whom?", sends, answer=str, name="to")
    return g.build(g.join(letter, said, sends, to))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    written(tmp_path / "run.jsonl", shop())
    written(tmp_path / "spans.jsonl", [*spans("sure"), *spans("unsure")])
    return tmp_path


@pytest.fixture
def view(folder: Path) -> View:
    graph = shouting()
    return View(
        find_source(str(folder / "run.jsonl")),
        trace=folder / "spans.jsonl",
        labels=Labels(folder / "labelled.jsonl"),
        graph=("shop", graph),
    )


def tried(view: View, graph: Any) -> Any:
    """Make a page from which a graph is tried."""
    app = serve(graph)
    page = studio_app(view, trials=Trials(app.state.server))
    return mount(page, app, only_page=True)


@pytest.fixture
def address(view: View) -> Iterator[str]:
    with running(tried(view, shouting())) as address:
        yield address


def test_a_key_labels_the_row_and_another_takes_it_back(
    page: Page, address: str, folder: Path
) -> None:
    page.open(address)
    page.until(lambda: page.ids()[:2] == ["sure", "unsure"])
    page.run("document.querySelector('.grid').focus()")
    page.press("j", "j", "2")
    file = folder / "labelled.jsonl"
    page.until(lambda: file.exists() and file.read_text("utf-8").endswith("\n"))
    line = json.loads(file.read_text("utf-8"))
    assert (line["text"], line["intent"], line["chosen"]) == ("It is broken?", "refund", True)
    page.until(lambda: "refund" in page.text("#row-2 .label"))
    page.press("u")
    page.until(lambda: not file.exists())


def test_one_key_confirms_all_questions_that_have_no_label_yet(page: Page, folder: Path) -> None:
    line = row("one", "Hello.", {"delivery": 0.9, "refund": 0.1})
    mood = {"status": "answered", "label": "bad", "probabilities": {"bad": 0.8, "good": 0.2}}
    line["output"]["decisions"]["mood"] = mood
    view = View(
        find_source(str(written(folder / "two.jsonl", [line]))),
        labels=Labels(folder / "labelled.jsonl"),
    )
    with running(mount(studio_app(view))) as address:
        page.open(address)
        page.one(".body .row")
        page.press("2")
        page.until(lambda: view.book.entries[0].right)
        page.press("R")
        page.until(lambda: view.book.entries[0].right == {"intent": "refund", "mood": "bad"})


def test_a_server_that_is_gone_is_told_of_and_nothing_is_lost(page: Page, view: View) -> None:
    with running(mount(studio_app(view))) as address:
        page.open(address)
        page.until(lambda: len(page.ids()) == 7)
    for click in (".rows .chips button:nth-child(2)", ".body .row"):
        page.run("document.querySelector('#said').textContent = ''")
        page.run("document.querySelector(arguments[0]).click()", click)
        page.until(lambda: "doesn't answer" in page.text("#said"))
    assert page.ids()


def test_the_keyboard_is_never_lost(page: Page, address: str) -> None:
    page.open(address)
    page.until(lambda: len(page.ids()) == 7)

    def focused() -> str:
        return page.run("return document.activeElement.textContent")

    page.press("j")  # before anything was clicked
    page.until(lambda: page.one("#row-1").get_attribute("aria-selected") == "true")
    page.run("document.querySelector('.grid').focus()")
    page.press("/")
    assert page.run("return document.activeElement.type") == "search"
    page.run("document.querySelectorAll('.rows .chips button')[1].focus()")
    page.press(" ")
    page.until(lambda: page.ids() == ["sure", "unsure"])
    assert focused().startswith("Corrected")
    page.run("document.querySelector('#row-0').click()")
    page.until(lambda: page.all(".pane .option"))
    page.run("document.querySelector('.pane .option').focus()")
    page.press(" ")
    page.until(lambda: "is delivery" in page.text("#said"))
    assert "delivery" in focused()
    page.size(PHONE)  # where the open row hides the list
    page.run("document.activeElement.blur()")
    page.press("\ue00c")  # Escape
    page.until(lambda: not page.all(".pane article") or page.one(".grid").is_displayed())


def test_the_slider_stands_below_its_point(page: Page, address: str) -> None:
    page.open(address, "#threshold")
    page.run("document.querySelector('input[type=range]').focus()")
    at = "return document.querySelector('input[type=range]').value"
    for key, accepted in (("\ue011", "1 of 1"), ("\ue014", "1 of 2"), ("\ue010", "2 of 3")):
        page.press(key)
        page.until(lambda accepted=accepted: accepted in page.text(".readout"))
        assert f"{float(page.run(at)):.0%}".replace("%", " %") in page.text(".readout")


def test_rows_are_searched_and_filtered(page: Page, address: str) -> None:
    page.open(address)
    page.until(lambda: len(page.ids()) == 7)
    page.press("/")
    page.press(*"money")
    page.until(lambda: page.ids() == ["sure"])
    page.press(*("\ue003" * len("money")))  # Backspace
    page.until(lambda: len(page.ids()) == 7)
    next(one for one in page.all(".chips button") if "Quarantined" in one.text).click()
    page.until(lambda: page.ids() == ["spam"])


def test_the_slider_says_what_is_known_of_a_point_and_promises_nothing(
    page: Page, address: str
) -> None:
    page.open(address, "#threshold")
    before = page.text(".readout")
    page.run("document.querySelector('input[type=range]').focus()")
    page.press("\ue010")  # End
    page.until(lambda: page.text(".readout") != before)
    assert "2 of 3 labelled" in page.text(".readout")
    assert "--risk" in page.text(".command")
    assert not page.all(".chart .tested")
    assert "guarantees nothing" in page.text(".threshold")


def test_a_click_on_a_node_shows_its_rows(page: Page, address: str) -> None:
    page.open(address, "#graph")
    page.one(".place.can").click()
    page.until(lambda: page.ids() and "bad" not in page.ids())
    assert len(page.ids()) == 6


def test_a_row_opens_with_what_happened_when_and_another_beside_it(
    page: Page, address: str
) -> None:
    page.open(address)
    page.until(lambda: len(page.ids()) == 7)
    page.run("document.querySelector('.grid').focus()")
    page.press("\ue007")
    page.until(lambda: "retried" in page.text(".pane"))
    page.one(".pane summary").click()
    assert "Which is it?" in page.text(".pane pre")
    next(one for one in page.all(".tools button") if one.text == "Compare").click()
    page.run("document.querySelector('#row-1').click()")
    page.until(lambda: len(page.all(".pane article")) == 2)
    assert page.text(".tools h2") == "sure and unsure"


def test_an_input_is_tried_and_its_nodes_light_up(page: Page, address: str) -> None:
    page.open(address, "#live")
    page.one(".try textarea").send_keys("hello")
    page.one(".go").click()
    page.until(lambda: "HELLO" in page.text(".result"))
    assert page.all(".place.done")


def test_a_person_answers_on_the_page_what_a_graph_asks(
    page: Page, view: View, folder: Path
) -> None:
    with running(tried(view, asking())) as address:
        page.open(address, "#live")
        page.one(".try textarea").send_keys("hello")
        page.one(".go").click()
        page.until(lambda: "Send HELLO?" in page.text(".question"))
        assert page.faults() == []
        next(one for one in page.all(".question button") if one.text == "Yes").click()
        page.until(lambda: "To whom?" in page.text(".question"))
        page.one(".question textarea").send_keys(HOSTILE)
        next(one for one in page.all(".question button") if one.text == "Answer").click()
        page.until(lambda: "HELLO to </script>" in page.text(".result"))
        assert page.run("return window.hacked") is None
        assert not page.all(".question")


def test_rows_of_a_run_that_goes_on_appear_by_themselves(
    page: Page, address: str, folder: Path
) -> None:
    page.open(address)
    page.until(lambda: len(page.ids()) == 7)
    with (folder / "run.jsonl").open("a") as file:
        file.write(f"{json.dumps(row('late', 'Late.', {'delivery': 0.9, 'refund': 0.1}))}\n")
    page.until(lambda: len(page.ids()) == 8)
    page.run("document.querySelector('#row-1').click()")
    page.one(".pane article")
    with (folder / "run.jsonl").open("a") as file:
        file.write(f"{json.dumps(row('later', 'Later.', {'delivery': 0.9, 'refund': 0.1}))}\n")
    page.until(lambda: page.text(".again") == "Show new rows")
    assert page.all(".pane article"), "nothing moves under one's hand"
    page.one(".again").click()
    page.until(lambda: len(page.ids()) == 9)
    assert page.text(".again") == "Reload"


def test_it_says_how_many_rows_are_read(page: Page, tmp_path: Path) -> None:
    go_on = threading.Event()

    def lines() -> Iterator[dict[str, Any]]:
        for i in range(1000):
            yield {"id": i, "input": f"text {i}", "output": None}
        go_on.wait(20)

    view = View(Source(name="slow", about="", lines=lines, count=lambda: 2000))
    view.start(within_s=0.01)
    with running(mount(studio_app(view))) as address:
        page.driver.get(address)
        page.until(lambda: "1,000 of 2,000 rows are read" in page.text(".reading"))
        assert page.faults() == []
        go_on.set()
        page.until(lambda: page.all(".body .row"))


def test_learning_is_started_and_watched(page: Page, view: View, folder: Path) -> None:
    view.learning = Learning(folder / "labelled.jsonl", "support")
    with running(mount(studio_app(view))) as address:
        page.open(address, "#live")
        learn = next(one for one in page.all(".live button") if one.text.startswith("Learn"))
        learn.click()
        page.until(lambda: "label some rows first" in page.text(".live"))
        written(folder / "labelled.jsonl", [{"text": "Hi.", "nonsense": 1}])
        learn.click()
        page.until(lambda: "it ended with 2" in page.text(".live"), seconds=60)
        assert page.text(".live pre.result")
    view.close()


def test_with_a_key_the_page_asks_for_it_and_it_stands_in_no_address(
    page: Page, view: View
) -> None:
    with running(mount(studio_app(view, key="secret"))) as address:
        page.driver.get(address)
        page.one("input[type=password]").send_keys("secret\n")
        page.until(lambda: page.all(".figure"))
        assert "secret" not in page.driver.current_url
        page.run("sessionStorage.clear()")
    page.driver.get_log("browser")  # which tells of the answer 401


def test_a_view_that_scrolls_is_reached_by_the_keyboard(page: Page, address: str) -> None:
    page.size((390, 300))
    page.open(address, "#threshold")
    page.run("document.querySelector('#view-threshold').replaceChildren('words '.repeat(2000))")
    assert page.faults() == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_axe_finds_no_fault(page: Page, address: str, size: tuple[int, int], dark: bool) -> None:
    page.size(size, dark=dark)
    faults: dict[str, list[str]] = {}
    for view in ("rows", "threshold", "graph", "live"):
        page.open(address, f"#{view}")
        page.until(lambda: page.all(".view:not([hidden])"))
        faults[view] = page.faults()
    page.open(address)
    page.one("#row-0")
    page.run("document.querySelector('#row-0').click()")
    page.until(lambda: page.all(".pane article"))
    faults["row"] = page.faults()
    assert {view: found for view, found in faults.items() if found} == {}


def hostile(folder: Path) -> View:
    lines = [
        row(HOSTILE, HOSTILE, {HOSTILE: 0.9, "b": 0.1}, right="b", queue=HOSTILE),
        row("2", HOSTILE, {HOSTILE: 0.2, "b": 0.8}, right="b", error=HOSTILE),
    ]
    lines[0]["output"][HOSTILE] = HOSTILE
    lines[0]["trace"].append(
        {"kind": HOSTILE, "node": HOSTILE, "text": HOSTILE, "endpoint": HOSTILE}
    )
    lines[0]["usage"]["by_node"][HOSTILE] = {"seconds": 1.0, "cost": 0.0}
    found = spans(HOSTILE, prompt=HOSTILE)
    found[0]["name"] = f"chat {HOSTILE}"
    found[0]["error"] = HOSTILE
    return View(
        find_source(str(written(folder / "run.jsonl", lines))),
        trace=written(folder / "spans.jsonl", found),
        labels=Labels(folder / "labelled.jsonl"),
    )


def look_everywhere(page: Page, address: str) -> None:
    """Open each view of a hostile run, and see that its texts stand there and do nothing."""
    for view in ("rows", "threshold", "graph"):
        page.open(address, f"#{view}")
        page.until(lambda: page.all(".view:not([hidden])"))
    page.open(address)
    page.one("#row-0")
    page.run("document.querySelector('#row-0').click()")
    page.until(lambda: "onerror" in page.text(".pane"))
    assert page.run("return window.hacked") is None
    assert page.all("img, script:not([type])") == []


def test_no_text_of_a_run_does_anything_but_stand_there(page: Page, tmp_path: Path) -> None:
    with running(mount(studio_app(hostile(tmp_path)))) as address:
        look_everywhere(page, address)


def test_nor_in_the_one_file_which_loads_nothing(page: Page, tmp_path: Path) -> None:
    out = tmp_path / "run.html"
    write_report(hostile(tmp_path), out)
    look_everywhere(page, out.as_uri())
    loaded = "return performance.getEntriesByType('resource').map((one) => one.name)"
    assert [one for one in page.run(loaded) if not one.startswith("data:")] == []


def test_the_one_file_offers_nothing_that_takes_a_server(page: Page, tmp_path: Path) -> None:
    lines = [*shop(), row("long", "word " * 20_000, {"delivery": 0.4, "refund": 0.6})]
    out = tmp_path / "run.html"
    write_report(View(find_source(str(written(tmp_path / "run.jsonl", lines)))), out)
    page.open(out.as_uri())
    page.until(lambda: len(page.ids()) == 8)
    assert not page.one(".again").is_displayed()
    next(one for one in page.all(".body .row") if "long" in one.text).click()
    page.until(lambda: page.all(".pane .whole[tabindex]"))
    assert page.faults() == []


def test_the_one_file_says_that_it_is_a_sample_and_filters_it(page: Page, tmp_path: Path) -> None:
    out = tmp_path / "run.html"
    source = find_source(str(written(tmp_path / "run.jsonl", shop())))
    assert write_report(View(source, texts=False), out, rows=4) == 4
    page.open(out.as_uri())
    page.until(lambda: len(page.ids()) == 4)
    assert "4 rows to look at first, of 7" in page.text("section.rows > .note")
    assert "Money" not in out.read_text("utf-8")
    next(one for one in page.all(".chips button") if "Corrected" in one.text).click()
    page.until(lambda: page.ids() == ["sure", "unsure"])


def test_of_many_rows_only_those_that_are_seen_are_on_the_page(page: Page, tmp_path: Path) -> None:
    lines = [{"id": i, "input": f"text {i}", "output": None} for i in range(20_000)]
    view = View(find_source(str(written(tmp_path / "run.jsonl", lines))))
    with running(mount(studio_app(view))) as address:
        page.open(address)
        page.one("#row-0")
        page.run("document.querySelector('.grid').focus()")
        page.press("\ue010")  # End
        page.until(lambda: page.ids()[-1:] == ["19999"])
        assert len(page.all(".body .row")) < 60
