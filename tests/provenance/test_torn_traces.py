"""PROV-IO's traces of several ranks, torn and mixed in one file: what is put together again, and that nothing is wrong."""

import os
import random
from pathlib import Path

import pytest

from sparsam.provenance.adapters import imported, provio, turtle

pytest.importorskip("pyoxigraph")
rdflib = pytest.importorskip("rdflib")

RANKS = [f"{number:04x}-{number:012x}" for number in range(1, 6)]


def traces(count: int = 40, drawn: random.Random | None = None) -> list[str]:
    """What five ranks have to say, so many blocks each."""

    def any_of(most: int, number: int) -> int:
        return number if drawn is None else drawn.randrange(most)

    return [
        "@prefix rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#> .\n\n"
        + "".join(
            f"<H5Dwrite--{number:08x}-2c94-11ec-{rank}>\n"
            f'    <prov:startedAtTime> "10/13/2021 19:{any_of(60, number)}:{any_of(60, 7)}" ;\n'
            f"    <prov:type> <prov:Activity> ;\n"
            f'    <provio:elapsed> "{any_of(10**7, 1000 * number + 1000)}" .\n\n'
            for number in range(count)
        )
        for rank in RANKS
    ]


@pytest.mark.parametrize("size", [512, 1000, 2000, 4096])
def test_interleaved_ranks_lose_what_was_torn_at_most(size: int) -> None:
    """Five ranks' texts, cut into pieces and mixed: nothing is wrong, a cut costs two blocks at most, C's own none."""
    whole = {(s, p, str(v)) for text in traces() for s, p, v in turtle.recovered(text.encode(), "x").triples}
    assert len(whole) == 5 * 40 * 3
    pieces = [[text[at : at + size] for at in range(0, len(text), size)] for text in traces()]
    mixed = "".join(one[turn] for turn in range(max(map(len, pieces))) for one in pieces if turn < len(one))
    found = turtle.recovered(mixed.encode(), "mixed.ttl")
    got = {(s, p, str(v)) for s, p, v in found.triples}
    cuts = sum(len(x) - 1 for x in pieces)
    assert got <= whole
    if size == turtle.BUFFER:
        assert got == whole and not found.damages and found.joined == cuts
    else:
        assert len(got) >= len(whole) - 2 * 3 * cuts and found.damages


def test_ranks_that_write_at_random_lose_next_to_nothing() -> None:
    """Thirty files of eight ranks, buffers in any order: no statement is wrong, of a thousand three at most are missing."""
    total = lost = 0
    for seed in range(30):
        drawn = random.Random(seed)
        texts = [
            traces(drawn.randrange(5, 120), drawn)[at % 5].replace(RANKS[at % 5], f"{at:04x}-{at:012x}")
            for at in range(8)
        ]
        whole = {(s, p, str(v)) for text in texts for s, p, v in turtle.recovered(text.encode(), "x").triples}
        queues = [
            [text[at : at + turtle.BUFFER] for at in range(0, len(text), turtle.BUFFER)] for text in texts
        ]
        mixed = ""
        while some := [x for x in queues if x]:
            mixed += drawn.choice(some).pop(0)
        got = {(s, p, str(v)) for s, p, v in turtle.recovered(mixed.encode(), "x.ttl").triples}
        assert got <= whole
        total, lost = total + len(whole), lost + len(whole - got)
    assert total > 25_000 and lost < 0.003 * total


def test_halves_of_a_block_are_put_together() -> None:
    """Where another rank's text lies between the halves, the block is whole again, and nothing is damaged."""
    one, two = traces()[:2]
    for at in (one.index("-0000000a-") + 70, one.index("-0000000b-") + 120, one.index("-00000010-") + 140):
        found = turtle.recovered((one[:at] + two + one[at:]).encode(), "x.ttl")
        assert (found.joined, found.damages, len(found.triples)) == (1, [], 2 * 40 * 3), one[at - 20 : at]


def test_a_torn_end_keeps_what_stands_before_it() -> None:
    """A file that breaks off within a block: all before, and the statements of the block that are whole; the place is named."""
    text = traces()[0]
    cut = text[: text.rindex("<provio:elapsed>") + 5]
    found = turtle.recovered(cut.encode(), "x.ttl")
    assert len(found.triples) == 39 * 3 + 2
    (damage,) = found.damages
    assert damage.reason == f"line {cut.count(chr(10)) - 2}: a block is torn; 2 of its statements were read"
    assert cut.encode()[damage.offset :].startswith(b"<H5Dwrite--00000027")


def test_garbled_relations_are_not_believed() -> None:
    """Where two halves happen to make a relation that nobody writes, the block is damaged."""
    text = traces()[0].replace("<provio:elapsed>", "<provio:elvio:elapsed>", 1)
    found = turtle.recovered(text.encode(), "x.ttl")
    assert len(found.triples) == 39 * 3 + 2 and len(found.damages) == 1


@pytest.mark.parametrize(("name", "there"), [("case1_WAR_64.ttl", 11328), ("case2_WAR_64.ttl", 11904)])
def test_corrupt_traces_are_recovered(name: str, there: int) -> None:
    """rdflib reads nothing of them; here every call, each with the time that the UUID in its name has."""
    place = os.environ.get("SPARSAM_PROVIO")
    if not place:
        pytest.skip("set SPARSAM_PROVIO to a checkout of github.com/hpc-io/prov-io at 81eb034")
    content = (Path(place) / "example_provenance" / "h5bench" / name).read_bytes()
    with pytest.raises(rdflib.plugins.parsers.notation3.BadSyntax):
        rdflib.Graph().parse(data=content, format="turtle")
    assert content.count(b"<prov:type>") == there
    found = imported.read(content, "prov-io", name)
    assert sum(x.count for x in found.history.calls.values()) == there
    assert found.joined > 100 and not found.history.damages
    differences = set()
    for subject, facts in turtle.blocks(found.history.foreign):
        assert len(facts) == (2 if name.startswith("case1") else 3)
        (told,) = facts["prov:startedAtTime"]
        exact = provio.named_moment(subject.rpartition("--")[2])
        differences.add(exact // 10**9 - provio.when(str(told)) // 10**9)
    assert differences == {7 * 3600, 7 * 3600 + 1}  # written in a zone seven hours behind, cut to seconds
