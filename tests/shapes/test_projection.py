"""What is said about some symbols after the others are eliminated, against counting."""

import itertools
import random

import pytest
import sympy
from torch.utils._sympy.functions import Mod

from sparsam.shapes.project import facts, project

A, B, H, G = sympy.symbols("s_a s_b s_v1 s_v2", integer=True)
FEW, MANY = range(-3, 5), range(-26, 27)


def hidden(name: str) -> bool:
    """Whether a symbol is forgotten."""
    return name.startswith("v")


def made(rng: random.Random, symbols: list[sympy.Symbol]) -> sympy.Basic:
    """A condition on some of the symbols."""
    one, other = (
        sum(
            (rng.choice([0, 0, 1, 1, -1, 2, 4]) * symbol for symbol in symbols),
            sympy.Integer(rng.randint(-3, 3)),
        )
        for _ in range(2)
    )
    if rng.random() < 0.2:
        one = rng.choice([2, 4]) * sympy.Max(1, rng.choice(symbols))
        other = one.as_coeff_Mul()[0]
    if rng.random() < 0.15:
        one, other = 2 * symbols[0] * symbols[-1], sympy.Integer(0)
    return rng.choice([sympy.Eq, sympy.Ne, sympy.Ne, sympy.Le, sympy.Lt, sympy.Ge, sympy.Gt])(one, other)


def holds(conditions: list[sympy.Basic], values: dict[sympy.Symbol, int]) -> bool:
    """Whether all of them hold."""
    return all(
        bool(condition.xreplace({k: sympy.Integer(v) for k, v in values.items()})) for condition in conditions
    )


@pytest.mark.parametrize("seed", range(60))
def test_there_is_a_value_where_it_says_so(seed):
    """For each pair of visible numbers: some hidden one satisfies the conditions, or none, as before."""
    rng = random.Random(seed)
    conditions = [made(rng, [H, A, B]) for _ in range(rng.randint(1, 4))] + [made(rng, [A, B])]
    true = [condition for condition in conditions if condition not in (sympy.true, sympy.false)]
    pairs = list(itertools.product(FEW, FEW))
    before = {(a, b): any(holds(true, {A: a, B: b, H: h}) for h in MANY) for a, b in pairs}
    if not any(before.values()):
        return  # conditions hold for some values, always
    after = project(true, hidden)
    for a, b in pairs:
        if any(H in condition.free_symbols for condition in after):
            now = any(holds(after, {A: a, B: b, H: h}) for h in MANY)
        else:
            now = holds(after, {A: a, B: b})
        assert now == before[a, b], (true, after, a, b)


@pytest.mark.parametrize(
    ("conditions", "left"),
    [
        ([H >= 0, H <= A * B, sympy.Ne(H, 0), sympy.Ne(H, A * B)], [A * B - 2 >= 0]),
        ([H >= 0, sympy.Ne(H, A)], []),
        ([sympy.Eq(4 * H, 4 * A), H > 2], [A > 2]),
        ([sympy.Ne(4 * H * G, 0), H >= 0, G >= 0, H <= A], [A - 1 >= 0]),
        ([sympy.Ne(4 * sympy.Max(1, H), 4), H <= A], [A - 2 >= 0]),
        ([H >= 0, H < 2, sympy.Ne(H, 0), sympy.Ne(H, A)], [sympy.Ne(1, A)]),
        ([sympy.Eq(H, 0), sympy.Eq(4 * H * G, 0), G > 0, G <= B], [B - 1 >= 0]),
    ],
)
def test_what_is_left_is_about_the_others(conditions, left):
    """Kept tokens, heads and the like leave what they say about sizes."""
    assert set(project(conditions, hidden)) == {sympy.sympify(one) for one in left}


def test_facts_have_no_names_of_forgotten_values():
    """Two states that differ in the numbers of their values alone say the same."""
    one = facts([sympy.Ne(sympy.Mod(A, H), 0), H * A > 2, A > 0], hidden)
    other = facts([A * G > 2, A > 0, sympy.Ne(sympy.Mod(A, G), 0)], hidden)
    assert one == other and len(one) == 2
    assert one != facts([sympy.Ne(sympy.Mod(A, H), 0), G * A > 2, A > 0], hidden)


def test_a_remainder_by_nothing_is_left_as_it_is():
    """A value that leaves a condition without one, as a remainder by nothing, is not put in: nothing is lost, or raised."""
    n, v = sympy.symbols("s_N s_v0", integer=True)
    conditions = (sympy.Eq(v, 0), sympy.Eq(Mod(n, v + 0), 1), sympy.Ge(n, 3))
    found = tuple(project(conditions, lambda name: name == "v0"))
    assert sympy.Ge(n, 3) in found
