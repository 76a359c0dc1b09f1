"""The picture of an answer: boxes that say what derives from what, groups, layers, and lines that cross little."""

import random
from collections.abc import Iterable
from itertools import pairwise

import pytest
from test_history import Told, Truth

from sparsam.provenance.graph import History
from sparsam.provenance.layers import crossings, layout, spread
from sparsam.provenance.picture import ALIKE, MANY, MOST, Picture, picture
from sparsam.provenance.questions import REPLACED, UNCHANGED, Step


def answer(found: History, path: str, states: dict[str, str] | None = None) -> list[Step]:
    """The lineage of a path in a history that is not on this disk."""
    one = found.at(path)
    assert one is not None
    steps = []
    for name in (one.id, *found.lineage(one.id)):
        entity = found.entities[name]
        state = (states or {}).get(f"{entity.path}@{entity.generation}", UNCHANGED)
        steps.append(Step(entity, found.programs.get(entity.by or ""), tuple(found.sources(name)), state))
    return steps


def reach(drawn: Picture, start: str) -> set[str]:
    """Paths of the files that arrows lead from to a file, all the way."""
    before: dict[str, list[str]] = {}
    for a, b in drawn.edges:
        before.setdefault(b, []).append(a)
    box = {step.entity.id: node.id for node in drawn.nodes for step in node.steps}
    seen, front = set(), [box[start]]
    while front:
        for one in before.get(front.pop(), []):
            if one not in seen:
                seen.add(one)
                front.append(one)
    return {step.entity.id for node in drawn.nodes if node.id in seen for step in node.steps}


def test_programs_stand_between_files() -> None:
    """Read on the left, made on the right, each program once."""
    told = Told()
    told(1, "process", run="r", argv=["python", "a.py"])
    told.read(1, "/in")
    told.write(1, "/middle", created=True)
    told(2, "process", run="r", argv=["python", "b.py"])
    told.read(2, "/middle")
    told.write(2, "/out", created=True)
    drawn = picture(told.history(), answer(told.history(), "/out"))
    names = {x.id: x.steps[0].entity.path if x.steps else x.programs[0].facts["argv"][1] for x in drawn.nodes}
    edges = {(names[a], names[b]) for a, b in drawn.edges}
    assert edges == {("/in", "a.py"), ("a.py", "/middle"), ("/middle", "b.py"), ("b.py", "/out")}
    assert [x.about for x in drawn.nodes if x.steps and x.steps[0].entity.path == "/out"] == [True]


def test_a_program_that_reads_its_own_file_stands_twice() -> None:
    """No arrow leads back: what it made afterwards is made by a second box, which goes on from the first."""
    told = Told()
    told(1, "process", run="r", argv=["x"])
    told.read(1, "/in")
    told.write(1, "/middle", created=True)
    told.read(1, "/middle")
    told.write(1, "/out", created=True)
    drawn = picture(told.history(), answer(told.history(), "/out"))
    placed = layout(
        [x.id for x in drawn.nodes], drawn.edges, {x.id: 1.0 for x in drawn.nodes}, gap=1, bend_gap=1
    )
    assert len([x for x in drawn.nodes if x.programs]) == 2 and not placed.back


@pytest.mark.parametrize("seed", range(10))
def test_arrows_leave_no_source_out(seed: int) -> None:
    """On random histories: whatever a file derives from has a way to it in the picture."""
    told = Told()
    truth = Truth(told, random.Random(seed))
    for number in range(4):
        told.read(0, f"/raw{number}")
        truth.at[f"/raw{number}"] = truth.node(set())
    for pid in range(1, 40):
        truth.step(pid)
    found = told.history()
    for path in sorted(truth.at)[:6]:
        steps = answer(found, path)
        drawn = picture(found, steps, whole=True)
        assert reach(drawn, steps[0].entity.id) >= {x.entity.id for x in steps[1:]}


def test_what_a_program_used_alone_and_wrote_over_is_not_drawn() -> None:
    """A file written aside, read again and replaced; what it was made from is still there."""
    told = Told()
    told(1, "process", run="r", argv=["x"])
    told.read(1, "/in")
    told.write(1, "/aside", created=True)
    told.read(1, "/aside")
    told.write(1, "/out", created=True)
    found = told.history()
    steps = answer(found, "/out", {"/aside@1": REPLACED})
    drawn = picture(found, steps)
    assert {x.steps[0].entity.path for x in drawn.nodes if x.steps} == {"/in", "/out"} and drawn.passing == 1
    assert {found.entities[x].path for x in reach(drawn, steps[0].entity.id)} == {"/in"}
    assert picture(found, steps, whole=True).passing == 0


@pytest.mark.parametrize("count", [ALIKE - 1, ALIKE, 500])
def test_files_with_the_same_neighbours_are_one_box_where_they_are_many(count: int) -> None:
    """All of them are in it."""
    told = Told()
    told(1, "process", run="r", argv=["x"])
    for at in range(count):
        told.read(1, f"/data/{at}")
    told.write(1, "/out", created=True)
    drawn = picture(told.history(), answer(told.history(), "/out"))
    sizes = sorted(len(x.steps) for x in drawn.nodes if x.steps)
    assert sizes == ([1] * (count + 1) if count < ALIKE else [1, count])


def test_branches_that_stand_alike_are_one_where_there_are_thousands() -> None:
    """A thousand conversions and what they read and made: five boxes, nothing missing."""
    told = Told()
    for at in range(1000):
        told(at + 1, "process", run="r", argv=["python", "convert.py", str(at)])
        told.read(at + 1, f"/raw/{at}")
        told.write(at + 1, f"/made/{at}", created=True)
    told(5000, "process", run="r", argv=["python", "merge.py"])
    for at in range(1000):
        told.read(5000, f"/made/{at}")
    told.write(5000, "/out", created=True)
    drawn = picture(told.history(), answer(told.history(), "/out"))
    assert sorted((len(x.steps), len(x.programs)) for x in drawn.nodes) == [
        (0, 1), (0, 1000), (1, 0), (1000, 0), (1000, 0),
    ]  # fmt: skip
    assert len(drawn.edges) == 4 and not drawn.left_out and MANY < 3001


def test_what_is_too_far_away_is_counted() -> None:
    """A chain of more boxes than are drawn: the nearest are, the others are said to be left out."""
    told = Told()
    told.read(0, "/f0")
    half = MOST // 2 + 300
    for at in range(half):
        told(at + 1, "process", run="r", argv=["python", f"{at}.py"])  # no two alike
        told.read(at + 1, f"/f{at}")
        told.write(at + 1, f"/f{at + 1}", created=True)
    drawn = picture(told.history(), answer(told.history(), f"/f{half}"))
    assert len(drawn.nodes) == MOST and drawn.left_out == 2 * half + 1 - MOST
    shown = {int(x.steps[0].entity.path[2:]) for x in drawn.nodes if x.steps}
    assert shown == set(range(half - MOST // 2 + 1, half + 1))


# layers


def drawn_graph(seed: int, count: int = 60) -> tuple[list[str], list[tuple[str, str]]]:
    """A random graph with some cycles."""
    pick = random.Random(seed)
    nodes = [f"n{at}" for at in range(count)]
    edges = [(nodes[pick.randrange(at)], nodes[at]) for at in range(1, count) for _ in range(2)]
    return nodes, edges + [(nodes[pick.randrange(count)], nodes[pick.randrange(count)]) for _ in range(3)]


def heights(nodes: Iterable[str]) -> dict[str, float]:
    return dict.fromkeys(nodes, 10.0)


@pytest.mark.parametrize("seed", range(8))
def test_arrows_lead_to_the_right_and_boxes_do_not_touch(seed: int) -> None:
    """But for edges that close a cycle, which are named; in a layer boxes keep their distance."""
    nodes, edges = drawn_graph(seed)
    made = layout(nodes, edges, heights(nodes), gap=4, bend_gap=3)
    for a, b in edges:
        if a != b:
            assert (made.layer[a] < made.layer[b]) != ((a, b) in made.back)
            span = abs(made.layer[b] - made.layer[a])
            assert len(made.bends.get((a, b), ())) == span - 1
    for at in range(1 + max(made.layer.values())):
        row = sorted(made.height[x] for x in nodes if made.layer[x] == at)
        assert all(b - a >= 14 - 1e-6 for a, b in pairwise(row))
    assert made == layout(nodes, edges, heights(nodes), gap=4, bend_gap=3)


def test_a_graph_that_can_be_drawn_without_crossings_is() -> None:
    """A binary tree whose leaves come in a shuffled order."""
    nodes = [f"{depth}.{at}" for depth in range(6) for at in range(2**depth)]
    edges = [
        (f"{depth}.{at}", f"{depth + 1}.{2 * at + side}")
        for depth in range(5)
        for at in range(2**depth)
        for side in (0, 1)
    ]
    random.Random(1).shuffle(nodes)
    made = layout(nodes, edges, heights(nodes), gap=4, bend_gap=3)
    rows = [
        sorted((x for x in nodes if made.layer[x] == at), key=lambda x: made.height[x]) for at in range(6)
    ]
    after: dict[str, list[str]] = {}
    for a, b in edges:
        after.setdefault(a, []).append(b)
    assert crossings(rows, after) == 0


def test_crossings_are_counted_as_by_looking_at_every_pair() -> None:
    """On random layers."""
    pick = random.Random(3)
    for _ in range(20):
        left, right = [f"a{at}" for at in range(9)], [f"b{at}" for at in range(7)]
        after = {x: pick.sample(right, pick.randrange(4)) for x in left}
        lines = [(left.index(x), right.index(y)) for x in left for y in after[x]]
        slow = sum(
            (a[0] - b[0]) * (a[1] - b[1]) < 0 for number, a in enumerate(lines) for b in lines[number + 1 :]
        )
        assert crossings([left, right], after) == slow


def test_places_are_the_nearest_to_what_is_wished_for() -> None:
    """In order and apart; no small change of any makes the sum of squares less."""
    pick = random.Random(5)
    for _ in range(30):
        wish = [pick.uniform(0, 30) for _ in range(6)]
        made = spread(wish, [2.0] * 6)
        assert all(b - a >= 2 - 1e-9 for a, b in pairwise(made))
        cost = sum((a - b) ** 2 for a, b in zip(made, wish, strict=True))
        for at in range(6):
            for step in (-0.01, 0.01):
                for width in range(1, 7 - at):
                    other = [x + step * (at <= number < at + width) for number, x in enumerate(made)]
                    if all(b - a >= 2 - 1e-9 for a, b in pairwise(other)):
                        assert sum((a - b) ** 2 for a, b in zip(other, wish, strict=True)) >= cost - 1e-9
