"""The page in a browser: what it shows, that it asks for nothing, that nothing runs, and that it fits a phone.

Skipped where there is no Chromium.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Browser, chromium
from pages import bench, page, row, sound
from test_page import HOSTILE

from sparsam.report import bench_of, page_of

pytestmark = [
    pytest.mark.slow,  # starts a browser
    pytest.mark.skipif(chromium() is None, reason="no chromium here; Debian: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    """One browser for all pages."""
    with Browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


def opened(browser: Browser, text: str, file: Path, width: int = 1280, dark: bool = False) -> Browser:
    """The page, loaded from a file."""
    file.write_text(text, encoding="utf-8")
    browser.open(file.as_uri(), width, dark=dark)
    return browser


@pytest.mark.parametrize("width", [390, 1280])
def test_page_is_shown_whole_and_asks_for_nothing(browser, tmp_path, width):
    """Figures are visible, one of the two pictures is shown, the policy has no complaint, no request leaves."""
    opened(browser, page(), tmp_path / "page.html", width)
    text = browser.value("document.body.innerText")
    for shown in (
        "0.50×",
        "−1.03",
        "1.62×",
        "the speed of openvino-int8 half",
        "doubtful",
        "labelled 7, answered 7",
    ):
        assert shown in text
    seen = browser.value(
        "[...document.querySelectorAll('.plot')].filter(p => p.getBoundingClientRect().width > 0).map(p => p.classList[1])"
    )
    assert seen == ["narrow" if width < 600 else "wide"]
    assert (
        browser.value("getComputedStyle(document.querySelector('h1')).fontWeight") == "650"
    )  # the style sheet is in use
    assert browser.said == []
    assert len(browser.requests) >= 1
    assert browser.requests[0].endswith("/page.html")
    assert all(address.startswith("data:image/png") for address in browser.requests[1:])


def test_example_image_is_painted(browser, tmp_path):
    """The image inside the page is decoded and each patch that is gone covers its place."""
    opened(browser, page(), tmp_path / "page.html")
    boxes = browser.value(
        "[...document.querySelectorAll('.patches')].map(s => {const o = s.getBoundingClientRect();"
        "return [o.width, ...[...s.querySelectorAll('.gone')].map(g => {const r = g.getBoundingClientRect();"
        "return Math.round(2 * (r.x - o.x) / o.width) + 2 * Math.round(2 * (r.y - o.y) / o.height)})]})"
    )
    assert all(box[0] > 30 for box in boxes)
    assert [box[1:] for box in boxes] == [[], [2], [0, 2]]


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("word", [None, "W" * 300, "a long name of a model in words " * 12])
def test_page_never_scrolls_sideways(browser, tmp_path, width, word):
    """Nothing stands out of the window, long names included; wide tables scroll on their own."""
    opened(browser, page(word), tmp_path / "page.html", width)
    assert browser.value("document.documentElement.scrollWidth") <= width
    wide = browser.value(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && !e.closest('svg')"
        f" && e.getBoundingClientRect().right > {width} + 1).map(e => e.tagName + '.' + e.className)"
    )
    assert wide == []


def test_words_can_be_read_in_light_and_in_dark(browser, tmp_path):
    """Text has at least 4.5 times the contrast of its ground in both schemes (WCAG 2 AA)."""
    contrast = """
    (() => {
      const read = c => c.match(/[\\d.]+/g).map(Number);
      const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
      const ground = e => { for (; e; e = e.parentElement) { const c = read(getComputedStyle(e).backgroundColor);
        if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
      let least = [99];
      for (const e of document.querySelectorAll('body *')) {
        const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
        if (!own || e.closest('defs, title, desc') || !e.getBoundingClientRect().width) continue;
        const style = getComputedStyle(e);
        const a = light(read(e instanceof SVGElement ? style.fill : style.color)), b = light(ground(e));
        const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (ratio < least[0]) least = [ratio, e.tagName, e.className, e.textContent];
      }
      return least;
    })()
    """
    for dark in (False, True):
        opened(browser, page(), tmp_path / "page.html", dark=dark)
        least = browser.value(contrast)
        assert least[0] >= 4.5, least


def test_hostile_words_neither_run_nor_load(browser, tmp_path):
    """All hostile words on one page, in names and in rows: the browser makes the same elements as of harmless ones."""
    counts = []
    for words in (HOSTILE, [f"a{at}" for at in range(len(HOSTILE))]):
        words = [sound(word) for word in words]
        whole = bench("x") | {
            "rows": [row(word) for word in words],
            "warnings": words,
            "absent": {f"{at} {word}": word for at, word in enumerate(words)},
        }
        opened(browser, page_of([], [("bench", bench_of(whole, "bench"))]), tmp_path / "page.html")
        counts.append(
            browser.value(
                "[...document.querySelectorAll('*')].map(e => e.tagName + [...e.getAttributeNames()]).join()"
            )
        )
        assert browser.said == []
        assert [address for address in browser.requests if not address.endswith("/page.html")] == []
        assert not any(event["method"] == "Page.javascriptDialogOpening" for event in browser.events)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("word", HOSTILE[::23])
def test_hostile_word_everywhere_neither_runs_nor_loads(browser, tmp_path, word):
    """One word in every place at once, runs, pictures and titles included."""
    opened(browser, page(word), tmp_path / "page.html", 390)
    assert browser.value("document.scripts.length") == 0
    assert (
        browser.value("document.querySelectorAll('iframe, object, embed, form, base, link, a').length") == 0
    )
    assert browser.said == []
    assert all(one.startswith(("data:image/png", "file:")) for one in browser.requests)
    assert len([one for one in browser.requests if one.startswith("file:")]) == 1
