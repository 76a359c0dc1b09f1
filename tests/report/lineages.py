"""Lineages made by hand, with one word wherever a word from outside may stand."""

from sparsam.provenance.decisions import Account, Calibration, Decision
from sparsam.provenance.graph import Entity, History, Program
from sparsam.provenance.log import Writer
from sparsam.provenance.questions import CHANGED, UNCHANGED, Step

BEGAN = 1_790_000_000_000_000_000


def entity(
    name: str, path: str, by: str | None = None, began: int = 0, sources: tuple[str, ...] = ()
) -> Entity:
    """A file, seen under one name."""
    made = Entity(name, "file", path, "host", 1 if by else 0, BEGAN + began, [path], 1234, BEGAN, "ab" * 32)
    made.by, made.derived = by, list(sources)
    return made


def program(name: str, words: list[str], began: int = 0) -> Program:
    """A process that ended well after two seconds."""
    made = Program(name, Writer("host", 1 + began, 1), "run", {"argv": words, "cwd": "/work"}, BEGAN + began)
    made.ended, made.status = made.began + 2_000_000_000, 0
    return made


def steps_of(found: History, about: str, changed: tuple[str, ...] = ()) -> list[Step]:
    """The lineage of a file; those that are named are not as they were."""
    return [
        Step(
            found.entities[x], found.programs.get(found.entities[x].by or ""), tuple(found.sources(x)),
            CHANGED if x in changed else UNCHANGED, found.accounts.get(x),
        )
        for x in (about, *found.lineage(about))
    ]  # fmt: skip


def trained(word: str = "") -> tuple[History, list[Step]]:
    """Raw data, a preparation of twelve files, a model with its decisions; ``word`` in place of every name."""

    def named(text: str) -> str:
        return word or text

    found = History()
    found.programs = {
        "p": program("p", ["python", named("prepare.py")], 10),
        "t": program("t", ["python", named("train.py"), named("--epochs=3")], 30),
    }
    raw = [entity(f"r{at}", f"/data/{named('raw')}{at}.csv", None, at) for at in range(2)]
    parts = [
        entity(f"c{at}", f"/data/clean/{named('part')}{at:02}", "p", 20 + at, ("r0", "r1"))
        for at in range(12)
    ]
    model = entity("m", f"/work/{named('model.safetensors')}", "t", 40, tuple(x.id for x in parts))
    found.entities = {x.id: x for x in (*raw, *parts, model)}
    found.current = {(x.host, x.path): x.id for x in found.entities.values()}
    found.accounts["m"] = Account(
        "m", "t", {named("method"): named("FTPP"), "seed": 3}, {named("accuracy"): 0.875},
        {named("rows"): Calibration(named("rows"), 64, named("train"), "cd" * 32, ("c0",))},
        [Decision("mask", named("layer 0 heads"), named("0-2"), named("rows"))],
    )  # fmt: skip
    found.programs["t"].configuration = {named("rate"): named("fast")}
    found.programs["t"].unseen = [named("some files")]
    found.programs["t"].facts |= {"user": named("jo"), "versions": {named("torch"): named("2")}}
    return found, steps_of(found, "m", ("r1",))


def many(count: int) -> tuple[History, list[Step]]:
    """A chain of programs, each with a file more that nobody else reads: two boxes and a half a step."""
    found = History()
    found.entities["f0"] = entity("f0", "/f0")
    for at in range(1, count + 1):
        extra = entity(f"x{at}", f"/extra/{at}/{at}", None, at)
        found.entities[extra.id] = extra
        found.programs[f"p{at}"] = program(f"p{at}", ["python", f"step{at}.py"], at)
        made = entity(f"f{at}", f"/made/f{at}", f"p{at}", at, (f"f{at - 1}", extra.id))
        found.entities[made.id] = made
    return found, steps_of(found, f"f{count}")
