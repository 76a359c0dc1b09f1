"""Every diagnostic says what is wrong with its own example, and nothing about the mended one."""

import pytest
import recording  # tests/shapes/recording.py

from sparsam.shapes.diagnose import RULES, explain_failure

SYMBOLIC = {"last-batch"}


@pytest.mark.parametrize("code", RULES)
def test_example_fails_where_it_says_and_gets_its_own_code(code):
    """The first block of the docstring fails on the marked line in eager torch, and is diagnosed with the rule's code."""
    bad, _ = RULES[code].examples
    failure = recording.run(bad, {})
    assert failure is not None, "the example runs"
    assert failure.place.source.rstrip().endswith("# here"), failure
    answer = explain_failure(failure, {})
    if code not in SYMBOLIC:
        assert answer[0] == code, (answer, failure)


@pytest.mark.parametrize("code", RULES)
def test_mended_example_runs(code):
    """The second block runs."""
    _, good = RULES[code].examples
    assert recording.run(good, {}) is None
