"""The checker against the rules themselves: a slow chase of PROV-CONSTRAINTS, written from its table, decides the same."""

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from sparsam.provenance.constraints import FORMALS, Document, Statement, check

# number, hypotheses => conclusions; words are variables, those of conclusions alone exist anew; !x is no placeholder
RULES = """
5 wasInformedBy(id,a2,a1) => wasGeneratedBy(gen,e,a1,t1) used(use,a2,e,t2)
6 wasGeneratedBy(gen,e,a1,t1) used(use,a2,e,t2) => wasInformedBy(id,a2,a1)
7 entity(e) => wasGeneratedBy(gen,e,a1,t1) wasInvalidatedBy(inv,e,a2,t2)
8 activity(a,t1,t2) => wasStartedBy(start,a,e1,a1,t1) wasEndedBy(end,a,e2,a2,t2)
9 wasStartedBy(id,a,e1,a1,t) => wasGeneratedBy(gen,e1,a1,t1)
10 wasEndedBy(id,a,e1,a1,t) => wasGeneratedBy(gen,e1,a1,t1)
11 wasDerivedFrom(id,e2,e1,!a,!gen,!use) => used(use,a,e1,t1) wasGeneratedBy(gen,e2,a,t2)
13 wasAttributedTo(att,e,ag) => wasGeneratedBy(gen,e,a,t) wasAssociatedWith(assoc,a,ag,pl)
14 actedOnBehalfOf(id,ag1,ag2,a) => wasAssociatedWith(id1,a,ag1,pl1) wasAssociatedWith(id2,a,ag2,pl2)
15 wasGeneratedBy(id,e,a,t) => wasInfluencedBy(id,e,a)
15 used(id,a,e,t) => wasInfluencedBy(id,a,e)
15 wasInformedBy(id,a2,a1) => wasInfluencedBy(id,a2,a1)
15 wasStartedBy(id,a2,e,a1,t) => wasInfluencedBy(id,a2,e)
15 wasEndedBy(id,a2,e,a1,t) => wasInfluencedBy(id,a2,e)
15 wasInvalidatedBy(id,e,a,t) => wasInfluencedBy(id,e,a)
15 wasDerivedFrom(id,e2,e1,a,g,u) => wasInfluencedBy(id,e2,e1)
15 wasAttributedTo(id,e,ag) => wasInfluencedBy(id,e,ag)
15 wasAssociatedWith(id,a,ag,pl) => wasInfluencedBy(id,a,ag)
15 actedOnBehalfOf(id,ag2,ag1,a) => wasInfluencedBy(id,ag2,ag1)
19 specializationOf(e1,e2) specializationOf(e2,e3) => specializationOf(e1,e3)
21 entity(e1) specializationOf(e2,e1) => entity(e2)
21 empty(e1) specializationOf(e2,e1) => empty(e2)
24 wasGeneratedBy(g1,e,a,t1) wasGeneratedBy(g2,e,a,t2) => g1=g2
25 wasInvalidatedBy(g1,e,a,t1) wasInvalidatedBy(g2,e,a,t2) => g1=g2
26 wasStartedBy(s1,a,e1,a0,t1) wasStartedBy(s2,a,e2,a0,t2) => s1=s2
27 wasEndedBy(s1,a,e1,a0,t1) wasEndedBy(s2,a,e2,a0,t2) => s1=s2
28 activity(a2,t1,t2) wasStartedBy(start,a2,e,a1,t) => t1=t
29 activity(a2,t1,t2) wasEndedBy(end,a2,e,a1,t) => t2=t
30 wasStartedBy(start,a,e1,a1,t1) wasEndedBy(end,a,e2,a2,t2) => start<=end
31 wasStartedBy(s1,a,e1,a1,t1) wasStartedBy(s2,a,e2,a2,t2) => s1<=s2
32 wasEndedBy(s1,a,e1,a1,t1) wasEndedBy(s2,a,e2,a2,t2) => s1<=s2
33 wasStartedBy(start,a,e1,a1,t1) used(use,a,e2,t2) => start<=use
33 used(use,a,e1,t1) wasEndedBy(end,a,e2,a2,t2) => use<=end
34 wasStartedBy(start,a,e1,a1,t1) wasGeneratedBy(gen,e2,a,t2) => start<=gen
34 wasGeneratedBy(gen,e,a,t) wasEndedBy(end,a,e1,a1,t1) => gen<=end
35 wasInformedBy(id,a2,a1) wasStartedBy(start,a1,e1,x1,t1) wasEndedBy(end,a2,e2,x2,t2) => start<=end
36 wasGeneratedBy(gen,e,a1,t1) wasInvalidatedBy(inv,e,a2,t2) => gen<=inv
37 wasGeneratedBy(gen,e,a1,t1) used(use,a2,e,t2) => gen<=use
38 used(use,a1,e,t1) wasInvalidatedBy(inv,e,a2,t2) => use<=inv
39 wasGeneratedBy(g1,e,a1,t1) wasGeneratedBy(g2,e,a2,t2) => g1<=g2
40 wasInvalidatedBy(g1,e,a1,t1) wasInvalidatedBy(g2,e,a2,t2) => g1<=g2
41 wasDerivedFrom(d,e2,e1,!a,!gen,!use) => use<=gen
42 wasDerivedFrom(d,e2,e1,a,g,u) wasGeneratedBy(g1,e1,a1,t1) wasGeneratedBy(g2,e2,a2,t2) => g1<g2
43 wasGeneratedBy(gen,e,a1,t1) wasStartedBy(start,a,e,a2,t2) => gen<=start
43 wasStartedBy(start,a,e,a1,t1) wasInvalidatedBy(inv,e,a2,t2) => start<=inv
44 wasGeneratedBy(gen,e,a1,t1) wasEndedBy(end,a,e,a2,t2) => gen<=end
44 wasEndedBy(end,a,e,a1,t1) wasInvalidatedBy(inv,e,a2,t2) => end<=inv
45 specializationOf(e2,e1) wasGeneratedBy(g1,e1,a1,t1) wasGeneratedBy(g2,e2,a2,t2) => g1<=g2
46 specializationOf(e1,e2) wasInvalidatedBy(i1,e1,a1,t1) wasInvalidatedBy(i2,e2,a2,t2) => i1<=i2
47 wasAssociatedWith(assoc,a,ag,pl) wasStartedBy(start,a,e1,a1,t1) wasInvalidatedBy(inv,ag,a2,t2) => start<=inv
47 wasAssociatedWith(assoc,a,ag,pl) wasGeneratedBy(gen,ag,a1,t1) wasEndedBy(end,a,e2,a2,t2) => gen<=end
47 wasAssociatedWith(assoc,a,ag,pl) wasStartedBy(start,a,e1,a1,t1) wasEndedBy(end,ag,e2,a2,t2) => start<=end
47 wasAssociatedWith(assoc,a,ag,pl) wasStartedBy(start,ag,e1,a1,t1) wasEndedBy(end,a,e2,a2,t2) => start<=end
48 wasAttributedTo(att,e,ag) wasGeneratedBy(g1,ag,a1,t1) wasGeneratedBy(g2,e,a2,t2) => g1<=g2
48 wasAttributedTo(att,e,ag) wasStartedBy(start,ag,e1,a1,t1) wasGeneratedBy(gen,e,a2,t2) => start<=gen
49 actedOnBehalfOf(del,ag2,ag1,a) wasGeneratedBy(g1,ag1,a1,t1) wasInvalidatedBy(i2,ag2,a2,t2) => g1<=i2
49 actedOnBehalfOf(del,ag2,ag1,a) wasStartedBy(s1,ag1,e1,a1,t1) wasEndedBy(e2,ag2,x2,a2,t2) => s1<=e2
51 wasDerivedFrom(id,e2,e1,a,!g,u) none(a) => false
51 wasDerivedFrom(id,e2,e1,a,g,!u) none(a) => false
52 specializationOf(e,e) => false
55 entityType(x) activityType(x) => false
56 hadMember(c,e) empty(c) => false
"""
TYPES = """
entity(e) activity(a,t1,t2) wasGeneratedBy(i,e,a,t) used(i,a,e,t) wasInformedBy(i,a,a) wasStartedBy(i,a,e,a,t)
wasEndedBy(i,a,e,a,t) wasInvalidatedBy(i,e,a,t) wasDerivedFrom(i,e,e,a,g,u) wasAssociatedWith(i,a,ag,e)
actedOnBehalfOf(i,ag,ag,a) wasAttributedTo(i,e,ag) specializationOf(e,e) hadMember(e,e)
"""
APART = ("used", "wasGeneratedBy", "wasInvalidatedBy", "wasStartedBy", "wasEndedBy", "wasInformedBy", "wasAttributedTo",
         "wasAssociatedWith", "actedOnBehalfOf")  # fmt: skip
Term = str | int
Fact = tuple[str, tuple[Term, ...]]


@dataclass(frozen=True)
class Rule:
    """Of the table."""

    number: int
    given: tuple[tuple[str, tuple[str, ...]], ...]
    then: str


def atoms(text: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The atoms of a text."""
    return tuple((name, tuple(inner.split(","))) for name, inner in re.findall(r"(\w+)\(([^)]*)\)", text))


def rules() -> list[Rule]:
    """The table, with constraints 22, 23, 53 and 54, which it spells for each relation."""
    made = []
    for line in RULES.strip().splitlines():
        number, rest = line.split(" ", 1)
        given, then = rest.split(" => ")
        made.append(Rule(int(number), atoms(given), then))
    for kind, names in FORMALS.items():
        if kind in ("specializationOf", "alternateOf", "hadMember", "mentionOf"):
            continue
        xs, ys = ([f"{side}{at}" for at in range(len(names))] for side in "xy")
        for x, y in zip(xs, ys, strict=True):
            made.append(Rule(22, ((kind, ("id", *xs)), (kind, ("id", *ys))), f"{x}={y}"))
    for kind, other in itertools.permutations(APART, 2):
        left, right = (
            tuple(f"{s}{at}" for at in range(len(FORMALS[k]))) for s, k in (("x", kind), ("y", other))
        )
        made.append(Rule(53, ((kind, ("id", *left)), (other, ("id", *right))), "false"))
    for kind in ("entity", "activity", "agent"):
        for other in (*APART, "wasDerivedFrom", "wasInfluencedBy"):
            left, right = (
                tuple(f"{s}{at}" for at in range(len(FORMALS[k]))) for s, k in (("x", kind), ("y", other))
            )
            made.append(Rule(54, ((kind, ("id", *left)), (other, ("id", *right))), "false"))
    return made


class Chase:
    """By the letter: rules are applied wherever they are not yet satisfied, terms are made equal everywhere."""

    def __init__(self, statements: list[Statement]) -> None:
        self.count = 0
        self.facts: set[Fact] = set()
        self.wrong = False
        for one in statements:
            if one.kind == "entity" and any(x.endswith("EmptyCollection") for x in one.types):
                self.facts.add(("empty", (one.id or "",)))
            kept = {"wasAssociatedWith": (2,), "wasDerivedFrom": (2, 3, 4)}.get(one.kind, ())
            kept = () if one.kind == "wasDerivedFrom" and one.arguments[2] is not None else kept
            values: list[Term] = [
                x if x is not None else "-" if at in kept else self.fresh()
                for at, x in enumerate(one.arguments)
            ]
            named = one.kind not in ("specializationOf", "alternateOf", "hadMember", "mentionOf")
            identity: tuple[Term, ...] = (one.id if one.id is not None else self.fresh(),) if named else ()
            self.facts.add((one.kind, (*identity, *values)))
        self.facts.add(("none", ("-",)))

    def fresh(self) -> int:
        self.count += 1
        return self.count

    def matches(
        self,
        given: tuple[tuple[str, tuple[str, ...]], ...],
        known: dict[str, Term],
        by: dict[str, list[tuple[Term, ...]]],
    ) -> Iterator[dict[str, Term]]:
        """All ways in which atoms hold."""
        if not given:
            yield known
            return
        (kind, names), *rest = given
        for terms in by.get(kind, ()):
            found = dict(known)
            for name, term in zip(names, terms, strict=True):
                if name[0] == "!" and term == "-":
                    break
                if found.setdefault(name.lstrip("!"), term) != term:
                    break
            else:
                yield from self.matches(tuple(rest), found, by)

    def index(self) -> dict[str, list[tuple[Term, ...]]]:
        made: dict[str, list[tuple[Term, ...]]] = {}
        for kind, terms in self.facts:
            made.setdefault(kind, []).append(terms)
        return made

    def equal(self, a: Term, b: Term) -> None:
        if isinstance(a, str) and isinstance(b, str):
            self.wrong = True
            return
        if isinstance(a, str) or (isinstance(b, int) and isinstance(a, int) and a < b):
            a, b = b, a
        if b == "-":
            self.wrong = True
            return
        self.facts = {(kind, tuple(b if x == a else x for x in terms)) for kind, terms in self.facts}

    def step(self, rule: Rule) -> bool:
        """Apply it once, if it can be."""
        by = self.index()
        concluded = atoms(rule.then)
        for found in self.matches(rule.given, {}, by):
            if "=" in rule.then and "<" not in rule.then:
                a, b = (found[x] for x in rule.then.split("="))
                if a != b:
                    self.equal(a, b)
                    return True
            elif concluded and next(self.matches(concluded, found, by), None) is None:
                anew = dict(found)
                for kind, names in concluded:
                    for name in names:
                        if name not in anew:
                            anew[name] = self.fresh()
                    self.facts.add((kind, tuple(anew[x] for x in names)))
                return True
        return False

    def valid(self, table: list[Rule]) -> bool:
        """Whether a normal form is reached, its events can be ordered, and nothing impossible is in it."""
        equalities = [x for x in table if "=" in x.then and "<" not in x.then]
        existence = [x for x in table if atoms(x.then)]
        while not self.wrong:
            if any(self.step(x) for x in equalities) and not self.wrong:
                continue
            if self.wrong or not any(self.step(x) for x in existence):
                break
        if self.wrong:
            return False
        for kind, names in atoms(TYPES):
            for terms in self.index().get(kind, ()):
                for name, term in zip(names, terms, strict=True):
                    if name in ("e", "a") and term != "-":
                        self.facts.add(({"e": "entityType", "a": "activityType"}[name], (term,)))
        by = self.index()
        before: dict[tuple[Term, Term], bool] = {}
        for rule in table:
            for found in self.matches(rule.given, {}, by) if rule.then == "false" or "<" in rule.then else ():
                if rule.then == "false":
                    return False
                a, b = (found[x] for x in re.split("<=|<", rule.then))
                before[a, b] = before.get((a, b), False) or "<=" not in rule.then
        events = {x for pair in before for x in pair}
        for middle in events:
            for a, b in itertools.product(events, events):
                if (a, middle) in before and (middle, b) in before:
                    strict = before[a, middle] or before[middle, b]
                    before[a, b] = before.get((a, b), False) or strict
        return not any(before.get((x, x), False) for x in events)


def drawn(random_: random.Random) -> Document:
    """A small document, with few names, so that much meets."""
    pools = {
        "e": ("e", "f", "h"),
        "a": ("a", "b"),
        "g": ("g", "e", "a"),
        "i": ("x", "y", "z"),
        "t": ("2020-01-01", "2021-01-01"),
    }
    letters = {
        "startTime": "t", "endTime": "t", "time": "t", "plan": "e", "agent": "g", "delegate": "g", "responsible": "g",
        "usage": "i", "generation": "i", "activity": "a", "informed": "a", "informant": "a", "starter": "a", "ender": "a",
        "influencee": "e",
        "influencer": "e",
    }  # fmt: skip
    needed = {"entity": ("wasGeneratedBy", "wasInvalidatedBy", "wasAttributedTo", "hadMember")}
    made = Document()
    for _ in range(random_.randrange(3, 9)):
        kind = random_.choice([x for x in FORMALS if x not in ("alternateOf", "mentionOf")])
        values: list[str | None] = []
        for at, name in enumerate(FORMALS[kind]):
            must = at == 0 or (
                at == 1
                and kind not in ("wasGeneratedBy", "used", "wasStartedBy", "wasEndedBy", "wasInvalidatedBy")
            )
            must |= kind in needed.get(name, ())
            must &= kind != "activity"
            keep = must or random_.random() < 0.35
            values.append(random_.choice(pools[letters.get(name, "e")]) if keep else None)
        thing = {"entity": "e", "activity": "a", "agent": "g"}.get(kind)
        identity = random_.choice(pools[thing]) if thing else random_.choice([None, None, "x", "y", "z"])
        if kind in ("specializationOf", "hadMember"):
            identity = None
        empty = kind == "entity" and random_.random() < 0.2
        types = frozenset({"http://www.w3.org/ns/prov#EmptyCollection"} if empty else ())
        made.add("", [Statement(kind, identity, tuple(values), types)])
    return made


def agree(seeds: range) -> None:
    """On each, and both verdicts come up often."""
    table, verdicts = rules(), []
    for seed in seeds:
        document = drawn(random.Random(seed))
        want = Chase(document.instances[""]).valid(table)
        report = check(document)
        assert report.valid == want, (seed, [str(x) for x in document.instances[""]], report.findings)
        verdicts.append(want)
    assert len(seeds) / 10 < sum(verdicts) < 9 * len(seeds) / 10


def test_the_checker_decides_as_the_rules_do() -> None:
    """On sixty small documents drawn at random."""
    agree(range(60))


@pytest.mark.slow
def test_the_checker_decides_as_the_rules_do_on_many() -> None:
    """On five hundred more: each takes the slow chase some hundredths of a second."""
    agree(range(1000, 1500))
