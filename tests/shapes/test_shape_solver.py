"""The solver of conditions over sizes: never a wrong answer, nice models, the same answer again, in time."""

import itertools
import os
import random
import subprocess
import sys
import time

import pytest
import random_conditions as rc
import sympy
from random_conditions import NAMES, conjunction, models, satisfied
from torch.utils._sympy import functions as ts
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from sparsam.errors import Refused
from sparsam.shapes import evaluate
from sparsam.shapes.solver import Domain, Solver, needed, text

LONG = pytest.mark.skipif(
    os.environ.get("SPARSAM_LONG") != "1", reason="takes minutes; SPARSAM_LONG=1 asks for it"
)

A, B, C, D = sympy.symbols("a b c d", integer=True)
SIZES = {n: Domain(1, None) for n in "abcd"}
WITH_OR_WITHOUT = pytest.mark.parametrize("use_z3", [False, True])


def solve(*literals, domains=None, use_z3=True, prefer=None, smallest=False):
    return Solver(use_z3=use_z3).solve(list(literals), domains or SIZES, prefer, smallest=smallest)


def compare_with_brute_force(seeds, use_z3, bounded):
    """Answers that are wrong, and how many of each kind there were."""
    solver = Solver(use_z3=use_z3)
    counts = {"sat": 0, "unsat": 0, "unknown": 0}
    wrong = []
    for seed in seeds:
        rng = random.Random(seed)
        literals = conjunction(rng, rng.randint(1, 4), rng.randint(1, 3))
        low, high = rng.choice((-3, 0, 1)), rng.choice((3, 5))
        domains = {
            n: Domain(low if bounded or rng.random() < 0.7 else None, high if bounded else None)
            for n in NAMES
        }
        prefer = {"a": 2, "b": 3} if rng.random() < 0.3 else None
        answer = solver.solve(literals, domains, prefer, smallest=rng.random() < 0.3)
        counts[answer.kind] += 1
        if answer.kind == "sat":
            inside = all(answer.model[n] in domains[n] for n in NAMES)
            if not inside or not satisfied(literals, answer.model):
                wrong.append((seed, literals, answer))
        elif answer.kind == "unsat":
            found = next(models(literals, {n: range(low, high + 1) for n in NAMES}), None)
            if found is not None:
                wrong.append((seed, literals, answer, found))
    return wrong, counts


@WITH_OR_WITHOUT
def test_random_conditions_are_decided_as_by_trying_everything(use_z3):
    """On small domains no answer is wrong, and next to nothing stays open."""
    wrong, counts = compare_with_brute_force(range(220), use_z3, bounded=True)
    assert not wrong, wrong[0]
    assert counts["unknown"] <= 4
    assert min(counts["sat"], counts["unsat"]) > 55


@WITH_OR_WITHOUT
def test_nothing_that_has_a_small_model_is_refuted_on_unbounded_domains(use_z3):
    """Without bounds a refutation cannot be an exhausted search, and still is never wrong."""
    wrong, counts = compare_with_brute_force(range(1000, 1150), use_z3, bounded=False)
    assert not wrong, wrong[0]
    assert min(counts["sat"], counts["unsat"]) > 30


def float_errors(seeds, use_z3):
    """Wrong answers to conjunctions with a real symbol, refutations compared with a grid of its values."""
    grid = [i / 10 for i in range(-15, 26, 2)] + [0.1, 0.25, 1 / 3]
    solver, wrong, counts = Solver(use_z3=use_z3), [], {"sat": 0, "unsat": 0, "unknown": 0}
    domains = {
        "a": Domain(-2, 3),
        "b": Domain(-2, 3),
        "c": Domain(1, 1),
        "r": Domain(-1.5, 2.5, integer=False),
    }
    for seed in seeds:
        rng = random.Random(seed)
        literals = conjunction(rng, rng.randint(1, 3), 1, floats=0.8)
        answer = solver.solve(literals, domains)
        counts[answer.kind] += 1
        if answer.kind == "sat" and not (
            satisfied(literals, answer.model) and all(answer.model[n] in domains[n] for n in domains)
        ):
            wrong.append((literals, answer))
        ranges = {"a": range(-2, 4), "b": range(-2, 4), "c": [1], "r": grid}
        if answer.kind == "unsat" and next(models(literals, ranges), None) is not None:
            wrong.append((literals, answer))
    return wrong, counts


@WITH_OR_WITHOUT
def test_conditions_on_floats_are_never_decided_wrongly(use_z3):
    """Rounding is reckoned with: no model misses by it, nothing is refuted that some floats satisfy."""
    wrong, counts = float_errors(range(100), use_z3)
    assert not wrong, wrong[0]
    assert counts["sat"] > 50 and counts["unsat"] > 10 and counts["unknown"] < 30


@pytest.mark.slow  # hundreds of conjunctions over floats
@WITH_OR_WITHOUT
def test_many_more_conditions_on_floats(use_z3):
    """The same over hundreds."""
    wrong, _ = float_errors(range(5000, 5400), use_z3)
    assert not wrong, wrong[0]


@pytest.mark.slow  # hundreds of conjunctions, each against all models
@WITH_OR_WITHOUT
@pytest.mark.parametrize("bounded", [True, False])
def test_many_more_random_conditions_are_decided_rightly(use_z3, bounded):
    """The same over many more."""
    size = 1500 if bounded else 400
    wrong, _ = compare_with_brute_force(range(10_000, 10_000 + size), use_z3, bounded)
    assert not wrong, wrong[0]


def test_conditions_are_evaluated_as_torch_does():
    """Where all parts have a value, ours is the one of torch's own reference interpreter."""
    compared = 0
    for seed in range(550):
        rng = random.Random(seed)
        (literal,) = conjunction(rng, 1, 3)
        if literal.has(sympy.Piecewise, ts.Where, sympy.Or, sympy.And, sympy.Abs, sympy.Rational(1, 2)):
            continue
        model = {n: rng.randint(1, 6) for n in NAMES}
        environment = {s: model[s.name] for s in rc.SYMBOLS}
        try:
            expected = sympy_interp(PythonReferenceAnalysis, environment, literal)
        except Exception:  # no value, or a function that torch's interpreter does not know
            continue
        try:
            ours = evaluate.function(literal)(model)
        except evaluate.Undefined:  # to a negative power, which torch does not forbid here
            assert literal.has(ts.PowByNatural)
            continue
        assert ours is bool(expected), (literal, model)
        compared += 1
    assert compared > 180


FALSE_FOR_ALL_SIZES = {
    "a literal and its negation": [sympy.Eq(A, B), sympy.Ne(A, B)],
    "differences": [A - B <= 3, B - A <= -5],
    "a cycle": [A < B, B < C, C < A],
    "a remainder and the quotient": [sympy.Eq(ts.Mod(A * B, 16), 0), sympy.Ne(A * B, 16 * ts.FloorDiv(A * B, 16))],
    "Python's division": [sympy.Ne(ts.FloorDiv(-A, 3) * 3 + ts.PythonMod(-A, 3), -A)],
    "products": [sympy.Eq(A * B, B), sympy.Ne(A, 1)],
    "a product that shrinks": [A * B * C < A * B],
    "parity": [sympy.Eq(2 * A, 2 * B + 1)],
    "common divisor": [sympy.Eq(6 * A + 10 * B, 15), C > 2],
    "equalities in a row": [sympy.Eq(A, B + 1), sympy.Eq(B, C + 1), sympy.Eq(A, C + 1)],
    "rationals": [2 * A + 3 * B <= 12, A + B >= 6, A - 2 * B <= -3],
    "a maximum": [sympy.Ne(ts.Max(1, A) * ts.Max(1, B), A * B)],
    "a convolution": [sympy.Eq(ts.FloorDiv(A - 3, 2) + 1, 5), A > 12],
    "one of two": [sympy.Or(sympy.Eq(A, 1), sympy.Eq(A, B)), A > 1, sympy.Ne(A, B)],
    "a root": [sympy.Eq(ts.TruncToInt(ts.FloatPow(ts.ToFloat(A), sympy.Float(0.5))), 4), A > 40],
    "bits": [sympy.Ne(ts.BitwiseFn_bitwise_and(A, sympy.Integer(3)), ts.Mod(A, 4))],
    "a shift": [sympy.Ne(ts.LShift(A, 2), 4 * A)],
    "a share of the whole": [ts.TruncToInt(sympy.Float(0.1) * ts.ToFloat(A)) > B, B >= A],
    "all but a share": [A - ts.TruncToInt(sympy.Float(0.95) * ts.ToFloat(A)) < 0],
    "a share rounded up": [ts.CeilToInt(sympy.Float(0.5) * ts.ToFloat(A)) > A],
    "twice divided": [sympy.Ne(ts.FloorDiv(ts.FloorDiv(A, 3), 4), ts.FloorDiv(A, 12))],
}  # fmt: skip


@pytest.mark.parametrize("name", FALSE_FOR_ALL_SIZES)
def test_contradiction_is_refuted_without_z3(name):
    """What linear forms and bounds can see needs no z3, whatever the size of the domain."""
    assert solve(*FALSE_FOR_ALL_SIZES[name], use_z3=False).kind == "unsat"


@pytest.mark.parametrize(
    "literals",
    [
        [sympy.Eq(A, 12 * B), sympy.Eq(A, 64 * C), sympy.Ne(ts.Mod(A, 192), 0)],
        [sympy.Ne(ts.CeilToInt(ts.IntTrueDiv(A, sympy.Integer(3))), ts.FloorDiv(A + 2, 3)), A < 1 << 40],
        [sympy.Eq(ts.Mod(A, B), 0), sympy.Ne(A, B * ts.FloorDiv(A, B))],
        [sympy.Eq(ts.Mod(A, 2 * B), 0), sympy.Ne(ts.Mod(A, B), 0)],
    ],
)  # fmt: skip
def test_products_and_quotients_are_refuted_by_z3(literals):
    """What is not linear goes to z3."""
    assert solve(*literals).kind == "unsat"


@pytest.mark.parametrize(
    ("literals", "expected"),
    [
        ([sympy.Eq(16 * (ts.FloorDiv(A - 3, 2) + 1) ** 2, 3600)], {"a": 31}),
        ([sympy.Eq(A * B, 768), sympy.Eq(A, 12)], {"a": 12, "b": 64}),
        ([sympy.Eq(ts.PythonMod(-A, 7), 3), A < 8], {"a": 4}),
        ([sympy.Eq(ts.PowByNatural(sympy.Integer(2), A), 1024)], {"a": 10}),
        ([sympy.Eq(A + B, 1003), sympy.Eq(A - B, 1)], {"a": 502, "b": 501}),
        ([A > 1_000_000, A < 1_000_002], {"a": 1_000_001}),
    ],
)
@WITH_OR_WITHOUT
def test_the_only_model_is_found(literals, expected, use_z3):
    """Values that no list of small candidates holds are computed from the conditions."""
    model = solve(*literals, use_z3=use_z3).model
    assert model is not None
    assert {n: model[n] for n in expected} == expected


def test_models_take_preferred_values_and_small_distinct_sizes():
    """What is preferred stays, the rest is small, distinct and neither 0 nor 1."""
    answer = solve(sympy.Ne(ts.Mod(A, B), 0), prefer={"a": 64})
    assert answer.model["a"] == 64
    assert sorted(answer.model.values())[0] >= 2
    assert len(set(answer.model.values())) == 4


def test_preferred_values_that_satisfy_everything_are_the_model():
    """Nothing is changed that need not be."""
    wanted = {"a": 17, "b": 5, "c": 1, "d": 1}
    assert solve(A > B, prefer=wanted).model == wanted


def test_only_what_must_change_leaves_its_preferred_value():
    """A condition on one symbol leaves the others alone."""
    wanted = {"a": 8, "b": 8, "c": 8, "d": 8}
    model = solve(sympy.Ne(A, B), prefer=wanted).model
    assert sum(model[n] != 8 for n in model) == 1


@pytest.mark.parametrize(
    ("literals", "expected"),
    [
        ([sympy.Ne(768 * A, 512 * B)], {"a": 1, "b": 1, "c": 1, "d": 1}),
        ([sympy.Ne(ts.Mod(A, B), 0)], {"a": 1, "b": 2, "c": 1, "d": 1}),
        ([A * B > 6, A > 2], {"a": 3, "b": 3, "c": 1, "d": 1}),
    ],
)
def test_witness_is_as_small_as_can_be(literals, expected):
    """Asked for the smallest, every size is 1 that may be."""
    assert solve(*literals, smallest=True).model == expected


def test_undefined_condition_holds_on_neither_side():
    """Where the divisor is zero neither the condition nor its negation can be claimed; what it needs is named."""
    domains = {"a": Domain(0, 9), "b": Domain(0, 0)}
    condition = sympy.Eq(ts.FloorDiv(A, B), 2)
    assert solve(condition, domains=domains).kind == "unsat"
    assert solve(sympy.Not(condition), domains=domains).kind == "unsat"
    (need,) = needed(condition)
    assert solve(sympy.Not(need), domains=domains).kind == "sat"


def test_undefined_side_of_an_or_does_no_harm():
    """One side that holds is enough, though the other divides by zero."""
    domains = {"a": Domain(0, 9), "b": Domain(0, 0)}
    either = sympy.Or(sympy.Eq(ts.FloorDiv(A, B), 2), sympy.Eq(A, 4))
    assert solve(either, domains=domains).model == {"a": 4, "b": 0}


def test_what_sympy_believes_of_a_symbol_is_not_believed():
    """Torch declares sizes positive; a domain from zero has zero in it all the same."""
    size = sympy.Symbol("a", integer=True, positive=True)
    assert solve(sympy.Lt(size * B, 1), domains={"a": Domain(0, 5), "b": Domain(1, 5)}).model["a"] == 0


def test_a_part_of_a_data_set_has_full_batches_and_a_rest():
    """A model of z3 that lies on the edge of what rounding may give is not the last word."""
    part = ts.TruncToInt(sympy.Float(0.1) * ts.ToFloat(A))
    for rest in (ts.Mod(part, 16) > 0, ts.Mod(part, 16) <= 0):
        model = solve(part > 1, part > B, rest, ts.FloorDiv(part, 16) > 0).model
        size = int(0.1 * model["a"])
        assert size >= 16
        assert (size % 16 > 0) == (rest.func is sympy.StrictGreaterThan)


def test_a_share_of_what_may_be_negative_may_be_more():
    """And so may one of all, once a float does not hold every whole number."""
    share = ts.TruncToInt(sympy.Float(0.8) * ts.ToFloat(A))
    assert solve(share > A, domains={"a": Domain(None, None)}).model["a"] < 0
    whole = ts.TruncToInt(sympy.Float(1.0) * ts.ToFloat(A))
    assert solve(whole > A, domains={"a": Domain(2**53, 2**53 + 9)}).model["a"] % 2


def test_floats_are_compared_as_floats():
    """0.1 + 0.2 is not 0.3, and the solver knows."""
    x = sympy.Symbol("x", real=True)
    domains = {"x": Domain(0.1, 0.1, integer=False)}
    assert solve(x + sympy.Float(0.2) > sympy.Float(0.3), domains=domains).kind == "sat"
    assert solve(x + sympy.Float(0.2) <= sympy.Float(0.3), domains=domains).kind == "unsat"
    wide = {"x": Domain(0.0, 1.0, integer=False)}
    model = solve(x > sympy.Float(0.5), x < sympy.Float(0.625), domains=wide).model
    assert 0.5 < model["x"] < 0.625
    assert solve(2 * x > 3, domains=wide).kind == "unsat"


@WITH_OR_WITHOUT
def test_implied(use_z3):
    """True where it follows, False where there is a counterexample, and only if it is defined throughout."""
    solver = Solver(use_z3=use_z3)
    assert solver.implied([A > 3], SIZES, A > 2) is True
    assert solver.implied([A > 3], SIZES, A > 4) is False
    zero = {**SIZES, "b": Domain(0, None)}
    assert solver.implied([], SIZES, ts.FloorDiv(A, B) <= A) in ((True,) if use_z3 else (True, None))
    assert solver.implied([], zero, ts.FloorDiv(A, B) <= A) is False


def test_answers_repeat_and_are_remembered():
    """A new solver says the same, in any order of literals and of queries; an old one does not reckon again."""
    queries = [conjunction(random.Random(seed), 3, 2) for seed in range(80)]
    domains = {n: Domain(-3, None) for n in NAMES}
    first, second = Solver(), Solver()
    answers = [first.solve(q, domains) for q in queries]
    again = [second.solve(q[::-1], domains) for q in reversed(queries)][::-1]
    assert answers == again
    done = first.statistics.by_linear + first.statistics.by_z3 + first.statistics.unknown
    assert [first.solve(q, domains) for q in queries] == answers
    assert first.statistics.by_linear + first.statistics.by_z3 + first.statistics.unknown == done
    assert first.statistics.cached >= 80
    assert first.statistics.queries == 160


def test_hard_query_ends_by_its_budget():
    """A query without an answer here ends as unknown, with the reason, and soon."""
    start = time.process_time()
    answer = solve(sympy.Eq(A**3 + B**3, C**3), A * B * C > 0)
    assert answer.kind == "unknown"
    assert "z3" in answer.reason
    assert time.process_time() - start < 5


def test_unknown_function_is_unknown_unless_the_rest_decides():
    """A function that nobody knows keeps its conjunction open; a contradiction beside it still counts."""
    strange = sympy.Function("strange")(A) > 2
    answer = solve(strange)
    assert (answer.kind, answer.model) == ("unknown", None)
    assert "strange" in answer.reason
    assert solve(strange, A < B, B < A).kind == "unsat"


def test_symbol_without_domain_is_refused():
    """The message says which, and what to do."""
    with pytest.raises(Refused, match="no domain was given for b; give one"):
        solve(A < B, domains={"a": Domain(0, 3)})


def test_typical_queries_take_little_time():
    """Chains of guards as torch's operators record them: well below 5 ms a query on average, z3 included."""
    guards = [
        sympy.Ne(A, 1), sympy.Ne(B, 1), A * B * C > 1, sympy.Eq(C, 768), B <= 512, sympy.Ne(A * B, A),
        sympy.Ne(ts.Mod(A, A * B), 0), B * C >= C, A * B * C >= 2, sympy.Eq(ts.Mod(A * B * C, 12 * B), 0),
        sympy.Ne(ts.FloorDiv(A * B * C, 12 * B), 1), ts.FloorDiv(A - 3, 2) + 1 >= 0,
    ]  # fmt: skip
    solver = Solver()
    solver.solve([sympy.Eq(A**2 + A * B, C * D + 7)], SIZES)  # imports z3
    times = []
    for repeat in range(5):
        start = time.process_time()
        domains = {n: Domain(1, 1 << (20 + repeat)) for n in "abcd"}
        prefer = {"a": 4, "b": 6, "c": 768, "d": 2}
        for i in range(len(guards)):
            assert solver.solve([*guards[:i], sympy.Not(guards[i])], domains, prefer).kind != "unknown"
        times.append(time.process_time() - start)
    assert min(times) / len(guards) < 0.005


def test_importing_the_solver_imports_neither_torch_nor_sympy_nor_z3():
    """They come with the first query that needs them."""
    code = (
        "import sys, sparsam.shapes.solver; sys.exit(any(m in sys.modules for m in ('torch', 'sympy', 'z3')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


T, H, N = sympy.symbols("T H N", integer=True)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (12 * T, "12*T"),
        (ts.FloorDiv(H - 1, 2) + 1, "(H - 1)//2 + 1"),
        (sympy.Ne(ts.Mod(N, B), 0), "N % batch != 0"),
        (ts.Min(T, 512), "min(T, 512)"),
        (-T <= -3, "T >= 3"),
        (sympy.Lt(1, T, evaluate=False), "T > 1"),
        (T - B > 2, "T - batch > 2"),
        (sympy.Or(sympy.Eq(B, 1), sympy.Eq(B, T)), "batch == 1 or batch == T"),
        (2 * ts.FloorDiv(T, 2), "2*(T//2)"),
        (ts.FloorDiv(B * T, H + 1), "batch*T//(H + 1)"),
        (ts.TruncToInt(ts.FloatPow(ts.ToFloat(T), sympy.Float(0.5))), "int(float(T)**0.5)"),
        (ts.Where(B > 1, T, H + 1), "T if batch > 1 else H + 1"),
        (T / 2, "T/2"),
        (1 - T, "1 - T"),
        (-T * B, "-batch*T"),
        ((T + 1) * (H - 1), "(H - 1)*(T + 1)"),
        (ts.PythonMod(-B, 3), "-batch % 3"),
        (ts.FloorDiv(T, -3), "T//-3"),
        (7, "7"),
        (sympy.true, "True"),
    ],
)
def test_text_reads_like_python(expression, expected):
    """Constants last, the unknown on the left, parentheses only where they are needed."""
    written = text(expression, {"b": "batch"})
    assert written == expected


def test_text_means_what_the_expression_means():
    """What is written, read back as Python, has the same value for all small sizes."""
    import ast

    for seed in range(300):
        rng = random.Random(seed)
        (literal,) = conjunction(rng, 1, 3)
        if literal.has(ts.ModularIndexing, sympy.oo, sympy.ITE):
            continue
        tree = ast.parse(text(literal), mode="eval").body
        for values in itertools.product((1, 2, 5), repeat=3):
            model = dict(zip(NAMES, values, strict=True))
            try:
                expected = rc.value(literal, model)
            except rc.NoValue:
                continue
            try:
                assert python_value(tree, model) == expected, (text(literal), literal, model)
            except ZeroDivisionError:
                assert literal.has(sympy.And, sympy.Or)


def python_value(node, model):
    """The value of a small Python expression."""
    import ast
    import math
    import operator as op

    operators = {
        ast.Add: op.add, ast.Sub: op.sub, ast.Mult: op.mul, ast.Div: op.truediv, ast.FloorDiv: op.floordiv,
        ast.Mod: op.mod, ast.Pow: op.pow, ast.BitAnd: op.and_, ast.BitOr: op.or_, ast.BitXor: op.xor,
        ast.LShift: op.lshift, ast.RShift: op.rshift, ast.Eq: op.eq, ast.NotEq: op.ne, ast.Lt: op.lt,
        ast.LtE: op.le, ast.Gt: op.gt, ast.GtE: op.ge, ast.USub: op.neg, ast.Not: op.not_,
    }  # fmt: skip
    functions = {
        "max": max, "min": min, "abs": abs, "float": float, "int": int, "ceil": math.ceil, "floor": math.floor,
        "round": round, "sqrt": math.sqrt, "log2": math.log2,
    }  # fmt: skip
    again = lambda n: python_value(n, model)  # noqa: E731
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return model[node.id]
    if isinstance(node, ast.BinOp):
        return operators[type(node.op)](again(node.left), again(node.right))
    if isinstance(node, ast.UnaryOp):
        return operators[type(node.op)](again(node.operand))
    if isinstance(node, ast.Compare):
        return operators[type(node.ops[0])](again(node.left), again(node.comparators[0]))
    if isinstance(node, ast.BoolOp):
        results = [bool(again(v)) for v in node.values]
        return all(results) if isinstance(node.op, ast.And) else any(results)
    if isinstance(node, ast.IfExp):
        return again(node.body) if again(node.test) else again(node.orelse)
    return functions[node.func.id](*(again(a) for a in node.args))
