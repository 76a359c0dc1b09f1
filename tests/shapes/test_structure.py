"""Results that need no question, and results that are recalled, against those of the framework."""

import os
import random

import pytest
import torch

from sparsam.shapes import structure
from sparsam.shapes.checker import _settings
from sparsam.shapes.environment import Unknown
from sparsam.shapes.merging import Memory
from sparsam.shapes.places import Places
from sparsam.shapes.run import execute

LONG = pytest.mark.skipif(
    os.environ.get("SPARSAM_LONG") != "1", reason="takes minutes; SPARSAM_LONG=1 asks for it"
)

aten = torch.ops.aten
DTYPES = (torch.float32, torch.float64, torch.int64, torch.bool)


def _sizes(rng, symbols):
    return [rng.choice([1, 2, 3, *symbols]) for _ in range(rng.randrange(4))]


def _cut(rng, sizes):
    return [size if rng.random() < 0.7 else 1 for size in sizes[rng.randrange(len(sizes) + 1) :]]


def _arguments(rng, rule, symbols):
    sizes = _sizes(rng, symbols)
    whole = torch.empty(sizes, dtype=rng.choice(DTYPES))
    if rng.random() < 0.2 and len(sizes) > 1:
        whole = whole.transpose(0, 1)
    if rule is structure.binary or rule is structure.compared:
        other = rng.choice(
            [2, 0.5, torch.empty(_cut(rng, sizes), dtype=whole.dtype), torch.empty(_sizes(rng, symbols))]
        )
        return (whole, other)
    if rule is structure.softmax:
        return (whole, rng.randrange(-3, 3), False)
    if rule is structure.addmm:
        n, k, m, other = (rng.choice([2, 3, *symbols]) for _ in range(4))
        return (
            torch.empty(rng.choice([m, m, 1])),
            torch.empty(n, k),
            torch.empty(rng.choice([k, k, other]), m),
        )
    if rule is structure.nll_loss:
        n, other = rng.choice([2, *symbols]), rng.choice([3, *symbols])
        target = torch.empty(rng.choice([n, n, other]), dtype=torch.int64)
        return torch.empty(n, 5), target, None, rng.randrange(3), -100
    if rule is structure.view:
        a, b = rng.choice([2, *symbols]), rng.choice([3, *symbols])
        wanted = rng.choice([[a * b, 6], [-1, 6], [a, -1], [b, a, 6], [a, b, 2, 3], [-1], [a, 5, -1]])
        return torch.empty(a, b, 6), wanted
    return (whole,)


def _looks(values, hints):
    def number(value):
        return int(value.node.expr.xreplace(hints)) if isinstance(value, torch.SymInt) else value

    values = values if isinstance(values, tuple) else (values,)
    return [
        (tuple(map(number, v.shape)), tuple(map(number, v.stride())), v.dtype, v.device, v.is_contiguous())
        for v in values
    ]


def _compared(seed, count):
    """How many samples had a result without a question; each is compared with the framework's for plain sizes."""
    rng = random.Random(seed)
    plain = 0
    for _ in range(count):
        func, rule = rng.choice(list(structure.FORMS.items()))
        state = rng.getstate()
        found = {}
        hints = {"A": rng.choice([1, 2, 5]), "B": rng.choice([1, 2, 7])}

        def entry(run, func=func, rule=rule, state=state, found=found):
            mine = random.Random()
            mine.setstate(state)
            symbols = [run.shapes.declare(Unknown(name, 1, None)) for name in "AB"]
            args = _arguments(mine, rule, symbols)
            if not run.plain:
                found["forms"] = structure.forms(func, args, {})
            try:
                # Twice: the second time it may be recalled.
                first, again = func(*args), func(*args)
            except (RuntimeError, IndexError, NotImplementedError, TypeError, ValueError) as error:
                found[run.plain] = type(error)
                return
            known = run.shapes.backed_var_to_val
            found[run.plain] = _looks(first, known)
            assert found[run.plain] == _looks(again, known)

        memory = Memory()
        with _settings():
            for sort in (False, True):
                outcome = execute(entry, hints, Places(lambda file: False), plain=sort, memory=memory)
                assert outcome.failure is None, outcome.failure
            memory.calls.known.clear()
        if found["forms"] is not None:
            plain += 1
            rules, structure.FORMS = structure.FORMS, {}
            try:
                with _settings():
                    execute(entry, hints, Places(lambda file: False), plain=True, memory=Memory())
            finally:
                structure.FORMS = rules
            assert found[False] == found[True], (func, hints, found)
    return plain


def test_results_without_a_question_are_those_of_the_framework():
    """Sizes, strides, dtype and device, for a few hundred samples; a fair share of them needs no question."""
    assert _compared(1, 200) > 40


@LONG
@pytest.mark.slow
def test_thousands_of_results_without_a_question_are_those_of_the_framework():
    """As above."""
    assert _compared(2, 3000) > 600
