"""The page of a lineage in a browser: it is looked at, clicked, searched, zoomed, steered by keys, on a desk and on a phone.

Skipped where there is no Chromium.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Browser, chromium
from lineages import many, trained
from test_page import HOSTILE

from sparsam.report.lineage import lineage_page, lineage_svg

pytestmark = [
    pytest.mark.slow,  # starts a browser
    pytest.mark.skipif(chromium() is None, reason="no chromium here; Debian: apt-get install chromium"),
]
SCALE = "Number(document.getElementById('view').getAttribute('transform').match(/scale\\(([\\d.]+)/)[1])"
PANEL = "document.getElementById('panel').innerText"
CHOSEN = "document.querySelector('.chosen title')?.textContent ?? ''"


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    """One browser for all pages."""
    with Browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


def opened(browser: Browser, text: str, file: Path, width: int = 1280, dark: bool = False) -> None:
    """The page, loaded from a file; it asked for nothing else and its policy had no complaint."""
    file.write_text(text, encoding="utf-8")
    browser.open(file.as_uri(), width, dark=dark)
    assert browser.said == [] and [x for x in browser.requests if not x.startswith(file.as_uri())] == []


def key(browser: Browser, name: str, text: str = "") -> None:
    """A key goes down and up."""
    code = {
        "Enter": 13,
        "Escape": 27,
        "ArrowLeft": 37,
        "ArrowUp": 38,
        "ArrowRight": 39,
        "ArrowDown": 40,
        "Tab": 9,
    }
    given = {"key": name, "windowsVirtualKeyCode": code.get(name, ord(name[0]))}
    browser.ask("Input.dispatchKeyEvent", type="keyDown", **given, **({"text": text} if text else {}))
    browser.ask("Input.dispatchKeyEvent", type="keyUp", **given)
    frame(browser)


def frame(browser: Browser) -> None:
    """The page has drawn what it was told."""
    time.sleep(0.25)
    browser.value("0")


def centre_of(browser: Browser, words: str) -> tuple[float, float]:
    """Of the box with these words, in the window."""
    found = browser.value(
        f"(() => {{ const box = [...document.querySelectorAll('.boxes > g')].find(g => g.textContent.includes({words!r}));"
        "const r = box.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    return found[0], found[1]


def pressed(browser: Browser, kind: str, x: float, y: float, **more: object) -> None:
    browser.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)


def click(browser: Browser, words: str) -> None:
    """The left button on a box."""
    x, y = centre_of(browser, words)
    for kind in ("mousePressed", "mouseReleased"):
        pressed(browser, kind, x, y, button="left", clickCount=1)
    frame(browser)


def test_a_click_shows_details_and_lights_what_it_hangs_on(browser, tmp_path):
    """At first the file that was asked for; then what is clicked, its sources and products, the rest dimmed."""
    opened(browser, lineage_page(*trained()), tmp_path / "page.html")
    for shown in ("model.safetensors", "1,234 bytes", "How it was made", "train.py --epochs=3"):
        assert shown in browser.value(PANEL)
    click(browser, "raw1.csv")
    assert "raw1.csv" in browser.value(PANEL) and "changed since" in browser.value(PANEL)
    lit = browser.value("[...document.querySelectorAll('.boxes > .on title')].map(t => t.textContent).join()")
    assert "prepare.py" in lit and "model.safetensors" in lit and "raw0.csv" not in lit
    assert browser.value("document.querySelectorAll('.arrows .on').length") == 4
    click(browser, "12 files in clean")
    assert browser.value(PANEL).count("/data/clean/part") == 12
    browser.value("document.querySelector('#panel li details summary').click()")
    frame(browser)
    assert "SHA-256" in browser.value(PANEL)
    browser.value(
        "[...document.querySelectorAll('#panel .ways button')].find(b => b.textContent.includes('train')).click()"
    )
    frame(browser)
    assert "train.py" in browser.value(CHOSEN) and "exit code" in browser.value(PANEL)
    assert "train.py" in browser.value("document.getElementById('said').textContent")


def test_the_account_of_a_checkpoint_can_be_opened(browser, tmp_path):
    """Method, decision and calibration stand in the panel, folded."""
    opened(browser, lineage_page(*trained()), tmp_path / "page.html")
    browser.value("document.querySelector('#panel details summary').click()")
    frame(browser)
    for shown in ("FTPP", "64 rows of train", "mask layer 0 heads", "0.875"):
        assert shown in browser.value(PANEL)


def test_zoom_and_drag_move_the_picture(browser, tmp_path):
    """By the wheel about the pointer, by buttons, by dragging, which is no click; and back to all of it."""
    opened(browser, lineage_page(*trained()), tmp_path / "page.html")
    before, (x, y) = browser.value(SCALE), centre_of(browser, "12 files in clean")
    pressed(browser, "mouseWheel", x, y, deltaX=0, deltaY=-400)
    frame(browser)
    assert browser.value(SCALE) > 1.5 * before
    after = centre_of(browser, "12 files in clean")
    assert abs(after[0] - x) < 3 and abs(after[1] - y) < 3
    browser.value("document.getElementById('further').click()")
    frame(browser)
    assert browser.value(SCALE) == pytest.approx(0.8 * before * 2.718281828 ** (400 * 0.0015), rel=0.02)
    start = centre_of(browser, "12 files in clean")
    pressed(browser, "mousePressed", *start, button="left", clickCount=1)
    for step in range(1, 6):
        pressed(browser, "mouseMoved", start[0] + 12 * step, start[1] + 8 * step, button="left", buttons=1)
    pressed(browser, "mouseReleased", start[0] + 60, start[1] + 40, button="left", clickCount=1)
    frame(browser)
    moved = centre_of(browser, "12 files in clean")
    assert (moved[0] - start[0], moved[1] - start[1]) == (pytest.approx(60, abs=2), pytest.approx(40, abs=2))
    assert browser.value(CHOSEN) == ""
    browser.value("document.getElementById('whole').click()")
    frame(browser)
    inside = browser.value(
        "(() => { const o = document.getElementById('picture').getBoundingClientRect(); return [...document.querySelectorAll("
        "'.boxes > g')].every(g => { const r = g.getBoundingClientRect(); return r.left >= o.left - 1 && r.top >= o.top - 1 "
        "&& r.right <= o.right + 1 && r.bottom <= o.bottom + 1; }); })()"
    )
    assert inside


def test_search_finds_files_in_groups_and_goes_from_one_to_the_next(browser, tmp_path):
    """By name, digest or command; the number is said, Enter goes on, Escape ends it."""
    opened(browser, lineage_page(*trained()), tmp_path / "page.html")
    browser.value("document.getElementById('find').focus()")
    browser.ask("Input.insertText", text="part07")
    frame(browser)
    assert browser.value("document.getElementById('found').textContent") == "1 found"
    assert "12 files in clean" in browser.value("document.querySelector('.hit').textContent")
    key(browser, "Enter")
    assert browser.value(PANEL).index("part07") < browser.value(PANEL).index("part00")
    browser.value("document.getElementById('find').select()")
    browser.ask("Input.insertText", text="RAW")
    frame(browser)
    names = []
    for _ in range(3):
        key(browser, "Enter")
        names.append(browser.value(CHOSEN))
    assert sorted(set(names)) == ["/data/raw0.csv", "/data/raw1.csv"] and names[0] == names[2] != names[1]
    key(browser, "Escape")
    assert browser.value("document.querySelectorAll('.hit').length") == 0
    browser.ask("Input.insertText", text="")
    assert browser.value("document.activeElement.id") == "picture"
    browser.value("document.getElementById('find').focus()")
    browser.ask("Input.insertText", text="nowhere at all")
    frame(browser)
    assert browser.value("document.getElementById('found').textContent") == "nothing found"


def test_keys_go_along_the_lines(browser, tmp_path):
    """To sources and products and up and down, details with Enter, search with a slash; focus can be seen."""
    opened(browser, lineage_page(*trained()), tmp_path / "page.html")
    browser.value("document.getElementById('picture').focus()")
    way = []
    for name in ("ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowDown", "ArrowRight"):
        key(browser, name)
        way.append(browser.value(CHOSEN))
    assert (
        way[0] == "/work/model.safetensors"
        and way[1].endswith("train.py --epochs=3")
        and way[2] == "12 files in clean"
    )
    assert (
        way[3] == "python prepare.py"
        and {way[4], way[5]} == {"/data/raw0.csv", "/data/raw1.csv"}
        and way[6] == way[3]
    )
    before = browser.value(SCALE)
    key(browser, "+", "+")
    assert browser.value(SCALE) > before
    key(browser, "Enter")
    assert browser.value("document.activeElement.id") == "panel"
    key(browser, "Escape")
    key(browser, "/", "/")
    assert (
        browser.value("document.activeElement.id") == "find"
        and browser.value("document.activeElement.value") == ""
    )
    assert browser.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("word", ["", "W" * 300])
def test_page_fits_its_window(browser, tmp_path, width, word):
    """Nothing stands out sideways, long names included; on a phone picture and details stand below each other."""
    opened(browser, lineage_page(*trained(word)), tmp_path / "page.html", width)
    assert browser.value("document.documentElement.scrollWidth") <= width
    picture, panel = (
        browser.value(
            f"(r => [r.x, r.y, r.width, r.height])(document.getElementById('{x}').getBoundingClientRect())"
        )
        for x in ("picture", "panel")
    )
    assert picture[2] > 0.85 * width if width < 600 else panel[0] > picture[0] + picture[2] - 1
    assert panel[1] >= picture[1] + picture[3] if width < 600 else picture[3] > 300
    sides = browser.value(
        "(r => [r.left, r.right])(document.querySelector('.about').getBoundingClientRect())"
    )
    assert sides[0] >= 0 and sides[1] <= width  # what was asked for is in sight


def test_words_can_be_read_in_light_and_in_dark(browser, tmp_path):
    """Titles and notes in boxes, panel and legend have 4.5 times the contrast of their ground (WCAG 2 AA)."""
    contrast = """
    (() => {
      const read = c => c.match(/[\\d.]+/g).map(Number);
      const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
      const ratio = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
      const ground = e => { for (; e; e = e.parentElement) { const c = read(getComputedStyle(e).backgroundColor);
        if (c.length < 4 || c[3] > 0) return c; } };
      let least = [99];
      for (const text of document.querySelectorAll('#view text')) {
        const box = read(getComputedStyle(text.parentNode.querySelector('rect:not(.behind)')).fill);
        const now = ratio(light(read(getComputedStyle(text).fill)), light(box));
        if (now < least[0]) least = [now, text.textContent];
      }
      for (const e of document.querySelectorAll('#panel *, header *, .tools *, .legend li, #keys, summary')) {
        const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
        if (!own || !e.getBoundingClientRect().width) continue;
        const now = ratio(light(read(getComputedStyle(e).color)), light(ground(e)));
        if (now < least[0]) least = [now, e.textContent];
      }
      return least;
    })()
    """
    for dark in (False, True):
        opened(browser, lineage_page(*trained()), tmp_path / "page.html", dark=dark)
        least = browser.value(contrast)
        assert least[0] >= 4.5, least


def test_thousands_of_boxes_can_be_moved_and_searched(browser, tmp_path):
    """Loaded, zoomed in forty steps and searched within seconds; boxes out of sight are not drawn."""
    opened(browser, lineage_page(*many(900)), tmp_path / "page.html")
    assert browser.value("document.querySelectorAll('.boxes > g').length") == 2701
    took = browser.ask(
        "Runtime.evaluate", awaitPromise=True, returnByValue=True, expression="""new Promise(done => {
          const picture = document.getElementById('picture'); let count = 0; const start = performance.now();
          (function step() { if (count++ >= 40) { done(performance.now() - start); return; }
            picture.dispatchEvent(new WheelEvent('wheel', {deltaY: count % 2 ? 90 : -90, clientX: 300, clientY: 400,
            cancelable: true})); requestAnimationFrame(step); })(); })""",
    )["result"]["value"]  # fmt: skip
    assert took < 8000  # a fifth of a second a step, on a busy machine; 16 ms each on an idle one
    frame(browser)
    hidden = browser.value(
        "[...document.querySelectorAll('.boxes > g')].filter(g => g.style.display === 'none').length"
    )
    assert hidden > 2000
    browser.value("document.getElementById('find').focus()")
    browser.ask("Input.insertText", text="step450.py")
    key(browser, "Enter")
    assert "step450.py" in browser.value(CHOSEN)
    place = centre_of(browser, "step450.py")
    assert 0 < place[0] < 1280 and 0 < place[1] < 900


@pytest.mark.parametrize("word", HOSTILE[::23])
def test_hostile_words_neither_run_nor_load(browser, tmp_path, word):
    """In every place at once, clicked through and searched for; the page and the picture alone."""
    opened(browser, lineage_page(*trained(word or "x")), tmp_path / "page.html", 390)
    for at in range(6):
        browser.value(
            f"document.getElementById('n{at}').dispatchEvent(new MouseEvent('click', {{bubbles: true}}))"
        )
        browser.value("document.querySelectorAll('#panel summary').forEach(s => s.click())")
        frame(browser)
    assert browser.value("document.scripts.length") == 2
    bad = "iframe, object, embed, form, base, link, a, img, #panel script, #panel style, b, i, math"
    assert browser.value(f"document.querySelectorAll('{bad}').length") == 0
    assert not any(x["method"] == "Page.javascriptDialogOpening" for x in browser.events)
    assert (
        browser.said == []
        and len([x for x in browser.requests if x.startswith("file:")]) == len(browser.requests) == 1
    )
    file = tmp_path / "picture.svg"
    file.write_text(lineage_svg(*trained(word or "x")), encoding="utf-8")
    browser.open(file.as_uri(), 800)
    assert browser.value("document.documentElement.tagName") == "svg" and len(browser.requests) == 1
    assert browser.value("document.querySelectorAll('script, foreignObject, image, a').length") == 0
