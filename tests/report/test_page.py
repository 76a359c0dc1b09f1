"""The page: what it shows for given numbers, that it refers to nothing outside, and that foreign words stay text."""

import base64
import hashlib
import re
from functools import cache

import pytest
from pages import Parsed, bench, example, page, record, row, run, score, sound

from sparsam.report import bench_of, page_of
from sparsam.report.figures import clean
from sparsam.report.pictures import Point, plots, ranges
from sparsam.report.runs import Evaluated

# --- content ---------------------------------------------------------------------------------------------------------


def test_page_is_well_formed():
    """Every element is closed where it was opened, nothing but elements and text is there, and ids are unique."""
    found = Parsed(page())
    assert found.open == []
    assert found.rest == []
    ids = [value for _, attributes in found.elements for name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert ("html", (("lang", "en"),)) in found.elements


@pytest.mark.parametrize(
    "text",
    [
        "0.50×", "−1.03", "95 % interval −2.64 to +0.57",  # the headline
        "90.00 %", "88.00 to 91.50", "872", "0.500×", "91.00 %", "1.000×", "14 lost, 5 won p = 0.0636",  # the table
        "90.0 % at 0.50×",  # the picture's label
        "87.5 %", "6.2 %", "threshold 0.750", "class token only",  # tokens kept
        "labelled 7, answered 7", "input4",  # examples
        "1.62× the speed of openvino-int8 half", "1.55× to 1.70×", "1.10", "▲ doubtful: the rounds disagree",
        "Arrival order, batches of 32, tokenisation excluded", "Sorted by length, batches of 32, tokenisation included",
        "412 samples a second; accuracy 88.53 %, −1.03 points from dense (95 % interval −2.64 to +0.57) over 872 rows", "254",
        "412 samples a second; p50 77.6 ms, p95 81.2 ms; accuracy not measured over 872 rows",  # speed
        "1 M", "4.00 MB", "4.10 MB", "2 left in 1 layers",  # counted
        "25.28 GB", "1,176,913 bytes", "3 of 872 texts of sst2 were longer than the model reads",
    ],
)  # fmt: skip
def test_page_shows_the_figures_it_was_given(text):
    """Each given number stands on the page, in its form."""
    assert text in Parsed(page()).text.replace("\xa0", " ")


def test_counted_and_measured_figures_never_share_a_table():
    """A table with a rate or a time has no multiply-accumulates, and the other way round."""
    tables = re.findall(r"<table.*?</table>", page(), re.DOTALL)
    timed = [table for table in tables if "baseline’s samples a second" in table]
    counted = [table for table in tables if "MACs" in table]
    assert timed
    assert counted
    assert not set(timed) & set(counted)


def test_every_ratio_names_its_baseline_in_the_same_line():
    """No speed stands without what it is compared with."""
    ratios = re.findall(r'<span class="ratio">(.*?)</span>', page())
    assert len(ratios) == 4
    assert all(
        re.search(r"<strong>1\.62×</strong> the speed of <bdi>(openvino-int8|eager-fp32) half</bdi>", one)
        for one in ratios
    )


def test_every_picture_has_a_name():
    """Each SVG is either hidden from readers of text or says what it shows."""
    for tag, attributes in Parsed(page()).elements:
        if tag == "svg":
            named = dict(attributes)
            assert named.get("aria-hidden") == "true" or named.keys() & {"aria-label", "aria-labelledby"}, (
                named
            )


def test_dense_model_measured_twice_is_shown_once():
    """A dense run that is also what a compressed one was compared with is one point, under its own name."""
    dense = run(name="dense")
    alone = Evaluated.model_validate({"task": "sst2", "model": score(0.91, 1.0)}, strict=False)
    object.__setattr__(dense, "evaluated", alone)
    half = run(name="half")
    shared = record() | {"dense": score(0.91, 1.0) | {"name": "../somewhere/dense"}}
    shared["model"] = score(0.9, 0.5)
    object.__setattr__(half, "evaluated", Evaluated.model_validate(shared, strict=False))
    text = Parsed(page_of([half, dense], [])).text
    assert "somewhere" not in text
    assert text.count("91.0 % at 1.00×") == 2  # once in the wide picture, once in the narrow one


def test_model_without_evaluation_is_shown_without_figures():
    """A folder from before keeps its recipe and says what is missing."""
    bare = run()
    object.__setattr__(bare, "evaluated", None)
    text = Parsed(page_of([bare], [])).text
    assert "No evaluation is kept with this model" in text
    assert "4.10 MB" in text


def test_page_is_the_same_each_time():
    """The same runs give the same bytes."""
    assert page() == page()


# --- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5, 6, 12])
def test_labels_keep_apart_and_inside(count):
    """Labels of models close to each other do not lie on each other, and none leaves the canvas."""
    points = [
        Point(f"model {at}", 0.4 + 0.03 * at, 90 + 0.1 * at, 88.0, 92.0, False) for at in range(count - 1)
    ]
    for plot in plots([Point("dense", 1.0, 91.0, 89.0, 93.0, True), *points], " %"):
        boxes = []
        for mark in plot.marks:
            width = max(6.5 * len(mark.label), 6 * len(mark.figures))
            start = mark.label_x - {"start": 0, "middle": width / 2, "end": width}[mark.anchor]
            boxes.append((start, mark.label_y - 9, start + width, mark.label_y + (16 if mark.figures else 0)))
            assert start >= 0
            assert start + width <= plot.width
            assert 0 <= mark.label_y <= plot.height
        if plot.size == "wide":
            for at, one in enumerate(boxes):
                for other in boxes[:at]:
                    apart = (
                        one[0] >= other[2] or other[0] >= one[2] or one[1] >= other[3] or other[1] >= one[3]
                    )
                    assert apart, (one, other)


def test_points_stand_where_their_figures_say():
    """Cost grows to the right from 0, the metric upwards; the interval's ends lie on their own values."""
    plot = plots([Point("a", 0.5, 90.0, 88.0, 92.0, False), Point("b", 1.0, 92.0, 90.0, 94.0, True)], " %")[0]
    one, other = plot.marks
    zero = next(tick.at for tick in plot.across if tick.text == "0×")
    assert one.x - zero == pytest.approx((other.x - zero) / 2, abs=0.2)
    assert (one.top, one.y) == pytest.approx((other.y, other.bottom), abs=0.2)
    ticks = {tick.text: tick.at for tick in plot.up}
    assert ticks["90"] == pytest.approx(one.y, abs=0.2)


def test_equal_values_do_not_break_an_axis():
    """A metric without any spread still gets a picture."""
    for plot in plots([Point("a", 1.0, 100.0, 100.0, 100.0, True)], " %"):
        assert plot.top <= plot.marks[0].y <= plot.bottom


def test_ranges_share_one_line_with_the_baseline():
    """Ratios lie in order on one line; twice as fast is as far right as half as fast is left."""
    slow, fast = ranges([(0.5, 0.5, 0.5), (2.0, 2.0, 2.0)])
    assert slow.at < slow.one == fast.one < fast.at
    assert fast.at - fast.one == pytest.approx(slow.one - slow.at, abs=0.2)


# --- nothing outside -------------------------------------------------------------------------------------------------


def test_nothing_outside_is_referred_to():
    """Every reference is a fragment of the page or data in it; there is no script, frame, form or base."""
    found = Parsed(page())
    for tag, attributes in found.elements:
        assert tag not in (
            "script",
            "iframe",
            "object",
            "embed",
            "form",
            "base",
            "link",
            "img",
            "audio",
            "video",
        )
        for name, value in attributes:
            assert not name.startswith("on")
            assert name != "style"
            if name in ("href", "src", "action", "srcset", "xlink:href"):
                assert value is not None
                assert value.startswith(("#", "data:image/png;base64,"))
    assert "http://" not in page()
    assert "https://" not in page()


def test_policy_allows_the_one_style_sheet_and_data_images():
    """The policy stands before anything else that could load, and names the style sheet by its digest."""
    text = page()
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert policy
    assert style
    assert policy.start() < style.start()
    digest = base64.b64encode(hashlib.sha256(style.group(1).encode()).digest()).decode()
    assert policy.group(1) == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert "url(" not in style.group(1)
    assert "@import" not in style.group(1)


# --- hostile words ---------------------------------------------------------------------------------------------------

TAGS = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg onload=alert(1)>", "<style>*{display:none}</style>",
    "<iframe src=//evil.example></iframe>", "<base href=//evil.example>", "<link rel=stylesheet href=//evil.example>",
    "<meta http-equiv=refresh content=0;url=//evil.example>", "<form action=//evil.example><input>", "<a href=javascript:1>",
    "<math><mi xlink:href=javascript:1>", "<details open ontoggle=alert(1)>", "<body onload=alert(1)>",
    "<object data=//evil.example></object>", "<use href=//evil.example#x />",
)  # fmt: skip
BEFORE = (
    "", '">', "'>", "</title>", "</style>", "</script>", "</svg>", "</desc>", "</bdi></td></table>", "-->", "]]>",
)  # fmt: skip
OTHERS = (
    '" onmouseover="alert(1)', "' onmouseover='alert(1)", "` onmouseover=`alert(1)", '" style="x', "x\" id='y",
    "&lt;b&gt;", "&#60;script&#62;", "&amp;amp;", "&", "<", ">", "<!--", "<![CDATA[", "<?xml?>", "<!doctype html>",
    "{{ 7 * 7 }}", "{% raw %}", "{# x #}", "${7*7}", "#{7*7}", "%3Cscript%3E", "\\u003cscript\\u003e", "javascript:alert(1)",
    "\x00<script>", "<scr\x00ipt>", "\x1b[31mred\x1b[0m", "\x07\x08\x7f\x85\x9f", "a\nb\r\nc\td", "\u2028\u2029",
    "\u202eevil\u202c", "\u2066\u2067\u2068\u2069", "\u200e\u200f\u061c", "\u05d0\u05d1\u05d2 abc", "\u0627\u0644\u0639",
    "\ud800", "\udfff\udc00", "\ufffe\uffff", "\ufeff", "a\u0300\u0301\u0302" * 20,
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "x" * 5000, "W" * 300, "\u200b" * 50,
    "<" * 500, "&" * 500, "\"'" * 200, "=cmd|'/c calc'!A1", "../../etc/passwd", " ",
)  # fmt: skip
HOSTILE = [before + tag for before in BEFORE for tag in TAGS] + list(OTHERS)


@cache
def _harmless(word: str) -> Parsed:
    return Parsed(page(word))


def _spaced(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("part", range(8))
def test_hostile_words_stay_text(part):
    """Whatever a name, label, note or key holds, the page has the elements and attributes of the harmless page, no other."""
    assert len(HOSTILE) >= 150
    for word in HOSTILE[part::8]:
        harmless = _harmless(
            re.sub("[^/]", "a", clean(word))
        )  # as long, and with its slashes, which end a folder's name
        text = page(word)
        found = Parsed(text)
        assert found.elements == harmless.elements, word
        assert found.open == []
        assert found.rest == []
        text.encode("utf-8")
        shown = _spaced(clean(word))
        if shown:
            assert found.text.count(shown) >= 40, word


@pytest.mark.parametrize("word", ["a\x00b", "a\x1bb", "a\u202eb", "a\u2066b", "a\ud800b", "a\x85b"])
def test_what_steers_the_reader_is_replaced(word):
    """Control characters, changes of direction and half characters come out as U+FFFD."""
    text = page(word)
    assert word not in text
    assert "a\ufffdb" in text


def test_names_of_other_scripts_are_isolated():
    """A name that reads from right to left does not turn its neighbours around: it stands in an element of its own."""
    word = "\u05d0\u05d1\u05d2"
    body = re.sub(r"<(title|desc|text)\b.*?</\1>|<(h3|code)>.*?</\2>", "", page(word), flags=re.DOTALL)
    assert f"<bdi>{word}</bdi>" in body


def test_hostile_benchmark_of_many_rows():
    """All hostile words at once, a row each: as many elements as with harmless ones."""
    named = bench("x") | {"rows": [row(sound(word)) for word in HOSTILE]}
    plainly = bench("x") | {"rows": [row(f"a{at}") for at in range(len(HOSTILE))]}
    made = [page_of([], [("bench", bench_of(one, "bench"))]) for one in (named, plainly)]
    assert [tag for tag, _ in Parsed(made[0]).elements] == [tag for tag, _ in Parsed(made[1]).elements]


def test_example_image_names_its_patches():
    """The picture of a layer says in words how many patches are left, and greys out the others."""
    text = page_of([], [], {"half": [example()]})
    assert 'aria-label="after layer 1, 3 of 4 patches are left"' in text
    assert 'aria-label="after layer 2, 2 of 4 patches are left"' in text
    assert text.count('class="gone"') == 3
    assert '<path class="gone" d="M0 1h1v1h-1z"/>' in text
