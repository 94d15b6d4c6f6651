"""The page of all boards in a real browser; skipped where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lazybench.boards import build, to_html
from lazybench.records import Trials

pytestmark = pytest.mark.slow
HOSTILE = "<img src=x onerror=document.title='owned'></script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium isn't installed")
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no chromium with chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    arguments = ["--headless=new", "--disable-gpu", "--window-size=1400,1800"]
    # As root, such as in a container, the browser starts without its sandbox only.
    arguments += ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    for argument in arguments:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield running
    running.quit()


@pytest.fixture
def page(browser: Any, make_run: Any, tmp_path: Path) -> Any:
    curve = [{"step": 5, "val": 0.2}, {"step": 10, "val": 0.4}]
    trials = Trials.of([1.0, 0.0], columns={"success_query": [7, 0]})
    attack: dict[str, Any] = {"env__family": "attack", "env__id": "net-untargeted"}
    attack |= {"env__protocol": {"query_budget": 100}, "trials": trials}
    runs = [
        make_run("b", 0.1, cost={"train_cpu_s": 9.0}, curve=curve),
        make_run("a", 0.0, cost={"train_cpu_s": 100.0}, curve=curve),
        make_run("c", 0.2, cost={}, curve=curve),
        make_run(HOSTILE, -0.1, cost={"train_cpu_s": 20.0}),
        make_run("a", budget="paper"),
        make_run("square", **attack),
    ]
    path = tmp_path / "boards.html"
    path.write_text(to_html(build(runs), runs), "utf-8")
    browser.get_log("browser")
    browser.get("about:blank")
    browser.get(path.as_uri())
    yield browser
    assert browser.get_log("browser") == []
    assert browser.title == "lazybench leaderboards"


def agents(page: Any) -> list[str]:
    script = """return [...document.querySelectorAll("section[data-budget=small]"
      + "[data-family=fewshot] tbody tr:not(.title)")].filter(r => r.offsetParent)
      .map(r => r.querySelector("th").firstChild.textContent.trim())"""
    return list(page.execute_script(script))


def click(page: Any, title: str) -> str:
    script = """const head = [...document.querySelectorAll(
      "section[data-budget=small][data-family=fewshot] thead th")]
      .find(h => h.textContent.startsWith(arguments[0]));
      head.querySelector("button").click(); return head.getAttribute("aria-sort")"""
    return str(page.execute_script(script, title))


def choose(page: Any, name: str, value: str) -> list[str]:
    """The boards that a filter leaves, set as a reader does."""
    from selenium.webdriver.support.ui import Select

    field = page.find_element("css selector", f"#filters [name={name}]")
    if field.tag_name == "select":
        Select(field).select_by_visible_text(value or "all")
    else:
        field.clear()
        field.send_keys(value)
    return shown(page)


def shown(page: Any) -> list[str]:
    """The names of the boards that aren't hidden."""
    script = """return [...document.querySelectorAll("section.board")].filter(s => !s.hidden)
      .map(s => s.querySelector("h2").textContent.replace(/\\s+/g, " "))"""
    return list(page.execute_script(script))


def test_sorting_is_by_number_and_leaves_gaps_last(page: Any) -> None:
    assert agents(page) == ["c", "b", "a", HOSTILE]
    assert click(page, "train CPU s") == "ascending"
    assert agents(page) == ["b", HOSTILE, "a", "c"]
    assert click(page, "train CPU s") == "descending"
    assert agents(page) == ["a", HOSTILE, "b", "c"]
    assert click(page, "agent") == "ascending"
    assert agents(page) == [HOSTILE, "a", "b", "c"]
    assert click(page, "rank") == "ascending"
    assert agents(page) == ["c", "b", "a", HOSTILE]


def test_filters_by_family_budget_environment_and_agent(page: Any) -> None:
    assert len(choose(page, "family", "")) == 3
    assert choose(page, "family", "attack") == ["net-untargeted-v1 small attack"]
    choose(page, "family", "")
    assert choose(page, "budget", "paper") == ["glyphs-5way-1shot-v1 paper fewshot"]
    choose(page, "budget", "")
    assert len(choose(page, "env", "glyphs-5way-1shot")) == 2
    choose(page, "env", "")
    assert choose(page, "agent", "SQUA") == ["net-untargeted-v1 small attack"]
    assert page.execute_script("return document.getElementById('count').textContent") == "1 board"
    assert "agent=SQUA" in page.current_url
    choose(page, "agent", "")
    # What fills forms may tell of a choice by `change` alone.
    page.execute_script(
        """const field = document.getElementById("filters").elements.family;
      field.value = "attack"; field.dispatchEvent(new Event("change", {bubbles: true}))"""
    )
    assert shown(page) == ["net-untargeted-v1 small attack"]


def test_pictures_are_drawn_and_a_row_is_highlighted(page: Any) -> None:
    wait = "return document.querySelectorAll('.plot svg').length"
    for _ in range(50):
        if page.execute_script(wait) >= 5:
            break
        page.execute_script("window.scrollBy(0, 200)")
    titles = page.execute_script(
        "return [...new Set([...document.querySelectorAll('.plot h3')].map(h => h.textContent))]"
    )
    assert set(titles) == {"Cost against score", "Learning curves", "Success against queries"}
    script = """const button = document.querySelector(".legend button"); button.click();
      const lit = button.closest("section").querySelectorAll(".plot .lit").length;
      const pressed = button.getAttribute("aria-pressed"); button.click();
      return [lit > 0, pressed, button.getAttribute("aria-pressed")]"""
    assert page.execute_script(script) == [True, "true", "false"]
    captions = "return [...document.querySelectorAll('figcaption')].map(c => c.textContent)"
    assert "Left out, since their records don't have it: c." in page.execute_script(captions)
    bad = "return [...document.querySelectorAll('.plot svg *')].filter(n => /NaN|Infinity/"
    bad += ".test([...n.attributes].map(a => a.value).join())).length"
    assert page.execute_script(bad) == 0


def test_columns_are_picked_for_all_boards(page: Any) -> None:
    shown = """return [...document.querySelectorAll("section[data-budget=small]"
      + "[data-family=fewshot] thead th")].filter(h => h.offsetParent).map(h => h.dataset.key)"""
    assert page.execute_script(shown) == ["rank", "agent", "score", "diff", "seeds", "train_cpu_s"]
    pick = """const box = document.querySelector(`#columns [value="${arguments[0]}"]`);
      box.closest("details").open = true; box.click()"""
    page.execute_script(pick, "trials")
    page.execute_script(pick, "diff")
    assert page.execute_script(shown) == [
        *("rank", "agent", "score", "seeds", "trials", "train_cpu_s"),
    ]


@pytest.mark.parametrize("width", [1280, 390])
def test_a_link_lands_where_it_points(page: Any, width: int) -> None:
    size = {"width": width, "height": 700, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        place = page.current_url.partition("#")[0]
        page.get("about:blank")
        page.get(f"{place}#glyphs-5way-1shot-v1-paper")
        script = """const top = document.querySelector("h2[id$=paper]").getBoundingClientRect().top;
          const bar = document.getElementById("filters").getBoundingClientRect();
          const score = document.querySelector("[id$=paper] .value").getBoundingClientRect();
          return [top, bar.bottom, score.right, document.documentElement.scrollWidth]"""
        top, bar, score, across = page.execute_script(script)
        # Wide pages keep their filters in view; on a phone these scroll away.
        assert (bar > 0) == (width > 500)
        assert max(bar, 0) <= top < 350
        assert score <= width
        assert across <= width
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_readers_scheme(page: Any, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    script = "return getComputedStyle(document.body)[arguments[0]].match(/\\d+/g).map(Number)"
    paper, ink = (sum(page.execute_script(script, n)[:3]) for n in ("backgroundColor", "color"))
    assert (paper > ink) == (scheme == "light")
    assert abs(paper - ink) > 400
    assert page.get_screenshot_as_png().startswith(b"\x89PNG")
