"""Sizes as text agree with sympy and Python: values, products, and what is printed."""

import math

import pytest
import sympy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparsam.shapes.diagnose import sizes

NAMES = ("B", "T", "N")
WITNESS = st.fixed_dictionaries({name: st.integers(1, 9) for name in NAMES})
SIZE = st.recursive(
    st.sampled_from(NAMES) | st.integers(1, 20).map(str),
    lambda inner: st.builds(
        lambda form, a, b: form.format(a=a, b=b),
        st.sampled_from(
            ["({a} + {b})", "{a}*{b}", "({a} - {b})", "({a})//({b})", "Mod({a}, {b})", "Max({a}, {b})"]
        ),
        inner,
        inner,
    ),
    max_leaves=6,
)


def by_python(text: str, witness: dict[str, int]) -> int | None:
    """The value by Python itself; None where it divides by zero."""
    try:
        return eval(text, {"Mod": lambda a, b: a % b, "Max": max}, dict(witness))  # noqa: S307
    except ZeroDivisionError:
        return None


@given(SIZE, WITNESS)
@settings(max_examples=200, deadline=None)
def test_value_is_pythons(text, witness):
    """A size under a witness is what Python computes, floor division and remainders included."""
    assert sizes.value(text, witness) == by_python(text, witness)


@given(SIZE, SIZE, WITNESS)
@settings(max_examples=200, deadline=None)
@example("B*(T + 1)", "B*T + B", {"B": 2, "T": 3, "N": 1})
def test_sizes_alike_have_the_same_value(left, right, witness):
    """Where two sizes are called alike, they are equal under every witness that gives both a value."""
    if sizes.alike(left, right):
        assert by_python(left, witness) == by_python(right, witness)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("B*(T + 1)", "B + T*B"),
        ("2*(B - B)", "0"),
        ("(B + 1)**2", "B**2 + 2*B + 1"),
        ("Max(B, T)*2", "2*Max(B, T)"),
    ],
)
def test_normal_forms_are_seen_as_alike(left, right):
    """Sums and products are compared by their normal form."""
    assert sizes.alike(left, right)
    assert sympy.expand(sympy.sympify(left) - sympy.sympify(right)) == 0


@given(st.lists(st.sampled_from(["B", "T", "2", "3", "12", "T + 1"]), max_size=5), WITNESS)
@settings(max_examples=100, deadline=None)
def test_product_is_printed_with_its_value(factors, witness):
    """The printed product has the value of the factors' product."""
    printed = sizes.product(factors).replace("·", "*")
    expected = math.prod(by_python(factor, witness) for factor in factors)
    assert by_python(printed, witness) == expected


@given(st.lists(st.sampled_from(["B", "T", "2", "3"])), st.lists(st.sampled_from(["B", "T", "2", "3"])))
def test_common_factors_are_taken_from_both(left, right):
    """What is left of each side, with the shared factors, is the side; nothing left is shared."""
    rest, others, shared = sizes.without_common(left, right)
    assert sorted(rest + shared) == sorted(left)
    assert sorted(others + shared) == sorted(right)
    assert not set(rest) & set(others)


@pytest.mark.parametrize(
    "text", ["", "B +", "f(x)(y)", "(" * 300, "B" * 500, "9**9**9**9", "1/0", "'a'", "lambda: 0", "\0"]
)
def test_text_that_is_no_size_is_left_alone(text):
    """Whatever is no expression has no value, and is printed as it is."""
    assert sizes.value(text, {}) is None
    assert sizes.alike(text, text)
    sizes.product([text, "2"])
    sizes.shape([text])
