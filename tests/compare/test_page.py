"""The page in a real browser: it draws, sorts, switches, steps through slices, fits a phone, and never complains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Page

from tcurlora_seg.compare import PAGE, compare

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine to open the page with")
THREE = {"left": {"x": 0.9, "y": 0.7}, "right": {"x": 0.8, "y": 0.0}}


@pytest.fixture(scope="module")
def page(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("page")
    compare(runs=str(demo / "runs"), output=str(folder))
    with Page(folder / PAGE) as page:
        yield page
        assert page.problems == []


def column(page: Page, number: int) -> list[str]:
    return page.run(f"[...document.querySelectorAll('#scores tbody tr')].map(r => r.cells[{number}].textContent)")


def picture(page: Page) -> str:
    return page.run("document.querySelector('#viewer canvas').toDataURL()")


def choose(page: Page, key: str, value: int) -> None:
    page.run(f"(() => {{ const s = document.querySelector('#viewer select[data-key={key}]'); s.value = {value};"
             " s.dispatchEvent(new Event('change')) })()")  # fmt: skip
    page.settle()


def test_every_chart_is_drawn(page: Page) -> None:
    for name in ("cost", "boxes", "volumes"):
        assert page.run(f"document.querySelectorAll('#{name} svg .mark').length") > 0, name
    assert page.run("document.querySelectorAll('#boxes svg').length") == 2
    assert page.run("document.querySelectorAll('#boxes .mark').length") == 2 * 2 * 4
    assert page.run("document.querySelectorAll('#volumes svg').length") == 2
    for name in ("curves-section", "structure-label", "tip"):  # nothing was swept, nothing to choose, nothing to tell
        assert page.run(f"getComputedStyle(document.getElementById('{name}')).display") == "none"
    assert not page.run("[...document.querySelectorAll('svg *')].some(e => /NaN|undefined/.test(e.outerHTML))")


def test_a_click_on_a_heading_sorts_and_another_turns_it_round(page: Page) -> None:
    heading = "#scores th:nth-child(3)"
    assert column(page, 0) == ["lora, rank 4", "full"]
    page.click(f"{heading} button")
    assert page.run(f"document.querySelector('{heading}').ariaSort") == "ascending"
    assert [float(text[:5]) for text in column(page, 2)] == sorted(float(text[:5]) for text in column(page, 2))
    first = column(page, 0)
    page.click(f"{heading} button")
    assert column(page, 0) == first[::-1]
    page.click("#scores th:nth-child(8) button")  # 1,000 and 9,000 are numbers, not words
    assert column(page, 7) == ["1,000", "9,000"]


def test_the_theme_follows_the_system_and_the_button(page: Page) -> None:
    assert page.run("document.documentElement.dataset.theme") == "light"
    paper = page.run("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.run("document.documentElement.dataset.theme") == "dark"
    assert page.run("getComputedStyle(document.body).backgroundColor") != paper
    page.click("#theme")
    assert page.run("getComputedStyle(document.body).backgroundColor") == paper


def test_paper_is_white_whatever_the_theme(page: Page) -> None:
    page.click("#theme")
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run("document.documentElement.dataset.theme") == "light"
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.run("document.documentElement.dataset.theme") == "dark"
    page.click("#theme")


def test_truth_and_prediction_can_be_switched_off_and_on(page: Page) -> None:
    both = picture(page)
    page.click("#show-truth")
    prediction = picture(page)
    page.click("#show-prediction")
    neither = picture(page)
    page.click("#show-truth")
    assert len({both, prediction, neither, picture(page)}) == 4
    page.click("#show-prediction")
    assert picture(page) == both


def test_case_plane_method_and_slice_change_the_picture(page: Page) -> None:
    seen = [picture(page)]
    for key in ("run", "method", "plane", "chosen"):
        choose(page, key, 1)
        seen.append(picture(page))
    page.run("document.querySelector('#viewer canvas').focus()")
    before = page.run("document.querySelector('#viewer .caption').textContent")
    page.press("ArrowRight")
    assert page.run("document.querySelector('#viewer .caption').textContent") != before
    seen.append(picture(page))
    assert len(set(seen)) == 6


def test_marks_can_be_reached_and_read_by_keyboard(page: Page) -> None:
    page.run("document.querySelector('#cost .mark').focus()")
    text = page.run("document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent")
    assert "Dice" in text and "trainable" in text
    page.run("document.activeElement.blur()")
    assert page.run("document.getElementById('tip').hidden")


def test_it_fits_a_phone(page: Page) -> None:
    page.resize(360, 740)
    page.settle()
    try:
        assert page.run("document.documentElement.scrollWidth") == 360
        texts = page.run("[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)")
        assert min(texts) >= 10
        assert page.run("document.querySelector('#scores .wide').hasAttribute('data-more')")
        page.run("document.querySelector('#scores .wide').scrollLeft = 9999")
        page.settle()
        assert not page.run("document.querySelector('#scores .wide').hasAttribute('data-more')")
        first = "document.querySelector('#scores tbody td').getBoundingClientRect()"
        assert page.run(f"{first}.left") < 40  # the names stay
    finally:
        page.resize(1280, 900)
        page.settle()


def test_structures_can_be_chosen_ranks_make_a_curve_and_dark_is_taken_from_the_system(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    for rank in (2, 4, 8):
        for seed in (0, 1):
            make_run(THREE, rank=rank, seed=seed, trainable=1000 * rank)
    for name in ("a_method_of_a_very_long_name", "full", "linear", "biases"):
        make_run(THREE, adapter=name, rank=None, trainable=90_000)
    compare(runs=str(tmp_path / "runs"), output=str(tmp_path / "out"))
    with Page(tmp_path / "out" / PAGE, dark=True) as page:
        assert page.run("document.documentElement.dataset.theme") == "dark"
        assert page.run("document.querySelectorAll('#curves .mark').length") == 3 + 1  # points and the legend's
        assert page.run("document.querySelectorAll('#boxes svg').length") == 4
        row = page.run("[...document.querySelector('#scores tbody tr').cells].map(c => c.textContent)")
        assert row[1] == "mean of structures" and row[4].startswith("2.25") and row[6] == "2 of 8"
        assert page.run("document.querySelector('#volumes h3').textContent").startswith("left: ")
        label = "document.querySelector('#cost .mark').getAttribute('aria-label')"
        mean = page.run(label)
        page.run("(() => { const s = document.getElementById('structure'); s.value = 'right';"
                 " s.dispatchEvent(new Event('change')) })()")  # fmt: skip
        assert page.run(label) != mean
        rows = "[...document.querySelectorAll('#scores tbody tr:not([hidden])')]"
        assert page.run(f"{rows}.map(r => r.cells[1].textContent)") == ["right"] * 7
        page.resize(360, 740)
        page.settle()
        assert page.run("document.documentElement.scrollWidth") == 360
        assert "No slices" in page.run("document.getElementById('viewer').textContent")
        assert not page.run("[...document.querySelectorAll('svg *')].some(e => /NaN|undefined/.test(e.outerHTML))")
        assert page.problems == []


def test_one_run_of_which_nothing_can_be_scored_still_opens(make_run: Callable[..., Path], tmp_path: Path) -> None:
    compare(runs=str(make_run([None])), output=str(tmp_path / "out"))
    with Page(tmp_path / "out" / PAGE) as page:
        assert "No Dice" in page.run("document.getElementById('cost').textContent")
        assert page.problems == []
