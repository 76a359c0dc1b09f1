"""The page and the picture of a lineage: what they show, that they refer to nothing outside, and that words stay text."""

import base64
import hashlib
import json
import re
import unicodedata
from xml.etree import ElementTree

import pytest
from lineages import many, steps_of, trained
from pages import Parsed
from test_page import HOSTILE

from sparsam.report.lineage import LETTERS, lineage_json, lineage_page, lineage_svg

DIRECTIONS = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def data_of(page: str) -> dict:
    """What the page gives its script."""
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match
    return json.loads(match[1])


def test_page_shows_files_programs_and_how_the_file_was_made():
    """Names, commands, states, decisions, and the group of the files that stand alike."""
    found, steps = trained()
    page = lineage_page(found, steps)
    text = Parsed(page).text
    for shown in (
        "Where model.safetensors came from", "14 files and 2 programs; 1 not as recorded", "12 files in clean",
        "prepare.py", "train.py --epochs=3", "data/raw1.csv", "changed since", "FTPP", "64 rows of train", "0-2",
    ):  # fmt: skip
        assert shown in text, shown
    boxes = data_of(page)["boxes"]
    assert sorted(len(x["members"]) for x in boxes) == [1, 1, 1, 1, 1, 12]
    assert [x["title"] for x in boxes if x["about"]] == ["work/model.safetensors"]
    columns = {x["title"]: x["layer"] for x in boxes}
    assert (
        columns["data/raw0.csv"]
        < columns["prepare.py"]
        < columns["12 files in clean"]
        < columns["work/model.safetensors"]
    )


def test_impact_has_its_own_words():
    """What was made from it, not where it came from."""
    found, steps = trained()
    assert "What was made from model.safetensors" in Parsed(lineage_page(found, steps, made_from=False)).text
    assert "What was made from" in lineage_svg(found, steps, made_from=False)


def test_page_is_well_formed_and_named_by_its_policy():
    """Elements are closed, ids are unique; style sheets and the one script are those whose digests the policy names."""
    page = lineage_page(*trained())
    found = Parsed(page)
    assert found.open == []
    ids = [value for _, attributes in found.elements for name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert (
        policy
        and "default-src 'none'" in policy[1]
        and "'unsafe" not in policy[1]
        and "http" not in policy[1]
    )
    for kind, pattern in (("style", r"<style>(.*?)</style>"), ("script", r"<script>(.*?)</script>")):
        named = re.search(rf"{kind}-src ([^;]*);", policy[1])
        digests = {
            "'sha256-" + base64.b64encode(hashlib.sha256(x.encode()).digest()).decode() + "'"
            for x in re.findall(pattern, page, re.DOTALL)
        }
        assert named and set(named[1].split()) == digests
    assert not re.search(r'\b(src|href|action)="', page) and "@import" not in page and "url(" not in page


def test_page_is_the_same_each_time():
    """The same answer gives the same bytes, so that it can be compared."""
    assert lineage_page(*trained()) == lineage_page(*trained())
    assert lineage_svg(*trained()) == lineage_svg(*trained())


def test_svg_stands_alone():
    """Well-formed XML of its own size, with both schemes of colours, and every line ends at a box."""
    root = ElementTree.fromstring(lineage_svg(*trained()))
    name = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{name}svg" and "prefers-color-scheme: dark" in "".join(root.itertext())
    assert len(root.findall(f".//{name}path")) == 5 and len(root.findall(f".//{name}g[@id]")) == 6
    width, height = float(root.get("width") or 0), float(root.get("height") or 0)
    for group in root.findall(f".//{name}g[@id]"):
        x, y = map(float, re.findall(r"[\d.]+", group.get("transform") or ""))
        assert 0 <= x <= width - 220 and 0 <= y <= height - 46


def test_json_holds_all_facts_and_derivations():
    """Each generation once, with what made it; arrows between generations that are there."""
    _, steps = trained()
    whole = json.loads(json.dumps(lineage_json(steps)))
    ids = {x["id"] for x in whole["steps"]}
    assert whole["about"] == "m" and len(ids) == len(steps) == 15
    assert {tuple(x) for x in whole["derivations"]} == {(s, x.entity.id) for x in steps for s in x.sources}
    assert whole["steps"][0]["account"]["decisions"][0]["kind"] == "mask"


@pytest.mark.parametrize("count", [1, 30])
def test_titles_fit_their_boxes(count):
    """Long names are cut, wide letters count twice, marks without end do not pile up."""
    for word in ("W" * 300, "漢" * 60, "e" + "\u0301" * 500, "a/b" * 100, "x"):
        found, steps = trained(word * count)
        root = ElementTree.fromstring(lineage_svg(found, steps))
        for text in root.iter("{http://www.w3.org/2000/svg}text"):
            said = text.text or ""
            wide = sum(
                2 if unicodedata.east_asian_width(x) in "WF" else not unicodedata.combining(x) for x in said
            )
            assert wide <= (LETTERS if text.get("class") == "title" else 30) and len(said) <= 200


def test_a_long_lineage_is_a_page_still():
    """Thousands of boxes: drawn in seconds, and every box is in what the script is given."""
    found, steps = many(700)
    page = lineage_page(found, steps)
    data = data_of(page)
    assert len(data["boxes"]) == 2 * 700 + 701 and page.count('<g id="n') == len(data["boxes"])
    assert len(page) < 5_000_000


@pytest.mark.parametrize("word", HOSTILE[::4])
def test_hostile_words_stay_text(word):
    """In every place at once: the same elements as of harmless words, no control and no change of direction."""
    found, steps = trained(word or "x")
    page, svg = lineage_page(found, steps), lineage_svg(found, steps)
    harmless = lineage_page(*trained("harmless"))
    assert [x[0] for x in Parsed(page).elements] == [x[0] for x in Parsed(harmless).elements]
    root = ElementTree.fromstring(svg)
    tags = [x.tag for x in ElementTree.fromstring(lineage_svg(*trained("harmless"))).iter()]
    assert [x.tag for x in root.iter()] == tags
    for text in (page, svg):
        assert not [
            x
            for x in text
            if (ord(x) < 32 and x not in "\t\n") or x in DIRECTIONS or 0xD800 <= ord(x) < 0xE000
        ]
    raw = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert raw and not set("<>&") & set(raw[1]) and raw[1].isascii()
    assert data_of(page)["boxes"]


def test_a_file_that_nobody_made_has_a_page():
    """One box, no arrow."""
    found, _ = trained()
    page = lineage_page(found, steps_of(found, "r0"))
    assert len(data_of(page)["boxes"]) == 1 and "0 files and 0 programs" in page
