"""The pages on simulated accelerators in a browser: figures are seen, nothing leaves, they fit a phone and can be read.

Skipped where there is no Chromium.
"""

from collections.abc import Iterator

import fake_design
import pytest
from chromium import Browser, chromium

from sparsam.hardware import designs
from sparsam.hardware.explore import explore
from sparsam.hardware.machine import Machine, Parameter, read_machine
from sparsam.hardware.simulate import How
from sparsam.hardware.simulation import simulate_on
from sparsam.report import explored, hardware

pytestmark = [
    pytest.mark.slow,  # starts a browser
    pytest.mark.skipif(chromium() is None, reason="no chromium here; Debian: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    """One browser for all pages."""
    with Browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


def pages(folder, word: str = "") -> dict[str, str]:
    """The page of a run on three machines and that of a grid; with a word wherever one from outside may stand."""
    first, slow = (
        read_machine(fake_design.machine_file(folder, name, bandwidth))
        for name, bandwidth in (("fake", 100.0), ("slow", 0.05))
    )
    if word:
        lanes = Parameter(16, word, word)
        first = Machine(word, "fake", word, word, dict(first.parameters) | {"lanes": lanes})
    workload = fake_design.small_workload(word)
    workload.save(folder / "trace")
    run = simulate_on(workload, [first.varied(depth=3), slow], How("sampled"), name=word or "tiny trace")
    grid = explore(
        folder / "trace", first, {"lanes": (0, 1, 4, 16, 64), "depth": (1, 2, 4)}, folder / "grid", workers=1
    )
    return {"simulation": hardware.page_of(run), "explore": explored.page_of(grid)}


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """The made-up design is known."""
    monkeypatch.setitem(designs.DESIGNS, "fake", "fake_design")


def opened(browser: Browser, text: str, folder, width: int = 1280, dark: bool = False) -> Browser:
    """The page from a file, everything that folds open."""
    (folder / "page.html").write_text(text, encoding="utf-8")
    browser.open((folder / "page.html").as_uri(), width, dark=dark)
    browser.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    return browser


@pytest.mark.parametrize("width", [390, 1280])
def test_figures_are_seen_and_nothing_is_asked_for(browser, tmp_path, width):
    """Words, bars and the picture for this width are painted; the policy has no complaint, no request leaves."""
    for kind, text in pages(tmp_path).items():
        opened(browser, text, tmp_path, width)
        shown = browser.value("document.body.innerText")
        wanted = {
            "simulation": ("Simulated, not measured", "3.00×", "computing alone", "default40", "products with weights alone"),
            "explore": ("Simulated, not measured", "▲ front", "lanes of machine fake[lanes=0,depth=1] is 0"),
        }  # fmt: skip
        for words in wanted[kind]:
            assert words in shown
        assert browser.value("getComputedStyle(document.querySelector('h1')).fontWeight") == "650"
        assert browser.said == []
        assert len(browser.requests) == 1
        if kind == "explore":
            seen = browser.value(
                "[...document.querySelectorAll('.plot')].filter(p => p.getBoundingClientRect().width > 0)"
                ".map(p => p.classList[1])"
            )
            assert seen == ["narrow" if width < 600 else "wide"]


def test_bars_are_as_long_as_their_figures(browser, tmp_path):
    """A speedup of 3 is three times as long as one of 1, and the baseline's line stands at 1."""
    opened(browser, pages(tmp_path)["simulation"], tmp_path)
    found = browser.value(
        "[...document.querySelectorAll('.simulated-bars td')].slice(0, 2).map(td => [...td.querySelectorAll('svg')].map(s => "
        "[s.querySelector('.fill').getBoundingClientRect().width, "
        "s.querySelector('.one').getBoundingClientRect().x - s.getBoundingClientRect().x]))"
    )
    long, short = found[0][0][0], found[1][0][0]
    assert long == pytest.approx(3 * short, rel=0.01)
    assert found[0][0][1] == pytest.approx(short, abs=2)


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("word", ["", "W" * 200, "a long name of a machine in words " * 8])
def test_pages_never_scroll_sideways(browser, tmp_path, width, word):
    """Nothing stands out of the window, long names included; wide tables scroll on their own."""
    for text in pages(tmp_path, word).values():
        opened(browser, text, tmp_path, width)
        assert browser.value("document.documentElement.scrollWidth") <= width
        wide = browser.value(
            "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && !e.closest('svg')"
            f" && e.getBoundingClientRect().right > {width} + 1).map(e => e.tagName + '.' + e.className)"
        )
        assert wide == []


@pytest.mark.parametrize("dark", [False, True])
def test_words_and_parts_can_be_told_from_their_ground(browser, tmp_path, dark):
    """Text has 4.5 times the contrast of its ground, the parts of a bar 3 times that of the sheet (WCAG 2 AA)."""
    contrast = """
    (() => {
      const read = c => c.match(/[\\d.]+/g).map(Number);
      const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
      const ground = e => { for (; e; e = e.parentElement) { const c = read(getComputedStyle(e).backgroundColor);
        if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
      const ratio = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
      let words = [99], parts = [99];
      for (const e of document.querySelectorAll('body *')) {
        if (e.closest('defs, title, desc') || !e.getBoundingClientRect().width) continue;
        const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
        if (!own && !/^part-/.test(e.getAttribute('class') || '')) continue;
        const style = getComputedStyle(e);
        const painted = light(read(e instanceof SVGElement ? style.fill : style.color)), under = light(ground(e));
        const found = ratio(painted, under);
        if (own && found < words[0]) words = [found, e.tagName, e.className, e.textContent];
        if (!own && found < parts[0]) parts = [found, e.getAttribute('class')];
      }
      return [words, parts];
    })()
    """
    for kind, text in pages(tmp_path).items():
        opened(browser, text, tmp_path, dark=dark)
        words, parts = browser.value(contrast)
        assert words[0] >= 4.5, words
        assert kind == "explore" or 3 <= parts[0] < 99, parts


def test_hostile_words_neither_run_nor_load(browser, tmp_path):
    """The browser makes the same elements of hostile words as of a harmless one."""
    hostile = (
        "\"'><script>alert(1)</script><img src=http://x.example/y onerror=alert(1)>{{7*7}}</svg></title>"
    )
    counts = []
    for number, word in enumerate((hostile, "harmless")):
        folder = tmp_path / str(number)
        folder.mkdir()
        for text in pages(folder, word).values():
            opened(browser, text, tmp_path)
            counts.append(
                browser.value(
                    "[...document.querySelectorAll('*')].map(e => e.tagName + [...e.getAttributeNames()]).join()"
                )
            )
            assert browser.said == []
            assert len(browser.requests) == 1
            assert not any(event["method"] == "Page.javascriptDialogOpening" for event in browser.events)
    assert counts[:2] == counts[2:]
