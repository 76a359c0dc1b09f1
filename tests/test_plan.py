"""What a plan accepts, what it refuses, and that it comes back from JSON as it went."""

import copy
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsam.errors import Refused
from sparsam.plan import VERSION, Format, LayerPlan, Plan, TokenPlan
from sparsam.tokens import RULES, rule_of

indices = st.none() | st.sets(st.integers(0, 10_000), max_size=8).map(lambda s: tuple(sorted(s)))
numbers = st.floats(allow_nan=False, allow_infinity=False)
options = st.dictionaries(
    st.text(max_size=8), st.booleans() | st.integers() | numbers | st.text(max_size=8), max_size=4
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any valid plan."""
    layers = tuple(draw(st.lists(st.builds(LayerPlan, indices, indices), min_size=1, max_size=5)))
    values = st.lists(st.none() | numbers, min_size=len(layers), max_size=len(layers)).map(tuple)
    kinds = st.sampled_from(["last", "survivors"])
    tokens = draw(st.none() | st.builds(TokenPlan, st.text(max_size=8), values, options, kinds))
    return Plan(draw(st.text(max_size=8)), layers, tokens)


def example() -> dict[str, Any]:
    """A plan that uses every field, as JSON."""
    tokens = TokenPlan("ltp", (None, 0.5, 1e6), {"seed": 1, "a": 0.5, "b": True, "c": "x"}, "survivors")
    return Plan("bert", (LayerPlan(), LayerPlan((0, 2), ()), LayerPlan(None, (1, 5))), tokens).to_json()


def refused(obj: Any, code: str = "plan-invalid") -> str:
    """The text of the refusal that reading ``obj`` must raise."""
    with pytest.raises(Refused) as caught:
        Plan.from_json(obj)
    assert caught.value.code == code
    return str(caught.value)


@given(plans())
@settings(max_examples=150, deadline=None)
def test_json_round_trip_is_exact(plan: Plan) -> None:
    """A plan comes back equal, by object and by text, with the same digest and the same types of options."""
    text = json.dumps(plan.to_json(), allow_nan=False)
    for back in (Plan.from_json(plan.to_json()), Plan.from_json(text)):
        assert back == plan
        assert back.digest() == plan.digest()
        if plan.tokens is not None and back.tokens is not None:
            kinds = {name: type(value) for name, value in plan.tokens.options.items()}
            assert {name: type(value) for name, value in back.tokens.options.items()} == kinds


def test_digest_ignores_key_order_and_sees_every_change() -> None:
    """The digest is of the content: not of the order of keys, but of every value."""
    data = example()
    backwards = json.loads(json.dumps(data), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    assert Plan.from_json(backwards).digest() == Plan.from_json(data).digest()
    changed = copy.deepcopy(data)
    changed["tokens"]["values"][1] = 0.5000000001
    assert Plan.from_json(changed).digest() != Plan.from_json(data).digest()


def test_dense_plan_changes_nothing() -> None:
    """The dense plan names its layers and no change of shape."""
    plan = Plan.dense("bert", 3)
    assert len(plan.layers) == 3 and plan.tokens is None and not plan.changes_shapes
    assert Plan("bert", (LayerPlan(heads=()),)).changes_shapes


def test_newer_version_is_refused_with_both_versions() -> None:
    """A plan of a newer schema says which version it has and what to do."""
    text = refused(example() | {"version": VERSION + 6}, "plan-version")
    assert (
        f"schema version {VERSION + 6}" in text and f"up to {VERSION}" in text and "Upgrade sparsam" in text
    )


def test_newer_version_wins_over_unknown_keys() -> None:
    """A newer schema is named as such even if it brings keys this version does not know."""
    refused(example() | {"version": VERSION + 1, "bits": [8]}, "plan-version")


@pytest.mark.parametrize("version", [0, -1, True, "1", 1.5, None, [], -(10**30)])
def test_impossible_version_is_refused(version: Any) -> None:
    """A version is a whole number from 1."""
    assert "version" in refused(example() | {"version": version})


def test_unknown_keys_are_refused_by_name() -> None:
    """A misspelt or foreign key is named, at any depth."""
    assert "surprise" in refused(example() | {"surprise": 1})
    data = example()
    data["layers"][1]["head"] = [1]
    assert "layers.1.head" in refused(data)


@pytest.mark.parametrize(
    "text", ['{"family": NaN}', "[1", "", "null", "3", '"x"', "[]", "{}", "\x00", "[" * 100_000]
)
def test_text_that_is_no_plan_is_refused(text: str) -> None:
    """Broken, foreign and very deep JSON text is refused, never a crash."""
    assert "Restore it from the saved folder" in refused(text)


@pytest.mark.parametrize(
    "obj", [None, 3, [], [1], object(), b"{}", {1: 2}, {"family": {1, 2}}, [["family", "bert"]]]
)
def test_objects_that_are_no_plan_are_refused(obj: Any) -> None:
    """Objects other than a JSON object are refused."""
    refused(obj)


@pytest.mark.parametrize("depth", [10, 150, 250, 900, 100_000])
@pytest.mark.parametrize("place", ["family", "layers", "tokens"])
def test_deep_nesting_is_refused(depth: int, place: str) -> None:
    """A value nested without end is refused, as an object and as text."""
    deep: Any = 1
    for _ in range(depth):
        deep = [deep]
    refused(example() | {place: deep})
    refused('{"family":"bert","layers":' + "[" * depth + "]" * depth + "}" if depth > 20 else "[]")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_without_a_value_are_refused(value: float) -> None:
    """NaN and infinities are refused in values and in options."""
    data = example()
    data["tokens"]["values"][1] = value
    refused(data)
    data = example()
    data["tokens"]["options"]["a"] = value
    refused(data)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("family",), 3),
        (("family",), None),
        (("layers",), []),
        (("layers",), {}),
        (("layers", 1, "heads"), [2, 1]),
        (("layers", 1, "heads"), [1, 1]),
        (("layers", 1, "heads"), [-1]),
        (("layers", 1, "heads"), [True]),
        (("layers", 1, "heads"), [1.0]),
        (("layers", 1, "filters"), "01"),
        (("tokens", "rule"), 1),
        (("tokens", "values"), [None, None]),
        (("tokens", "values"), [None, "0.5", None]),
        (("tokens", "values"), [None, True, None]),
        (("tokens", "options"), {"a": [1]}),
        (("tokens", "options"), {"a": None}),
        (("tokens", "output"), "first"),
    ],
)
def test_wrong_types_and_values_are_refused(place: tuple[Any, ...], value: Any) -> None:
    """Nothing is coerced: each wrong type or order is refused, and the text says where it stands."""
    data = example()
    inner: Any = data
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    text = refused(data)
    assert "the plan is not valid" in text
    if len(place) > 1:
        assert ".".join(map(str, place[:2])) in text or place[1] == "values"


def test_lone_surrogate_and_huge_integer_are_refused_or_kept() -> None:
    """Text that is no Unicode, and integers beyond Python's limit for text, never crash the reader."""
    refused('{"family": "\\ud800", "layers": [{}]}')
    refused('{"family": "bert", "layers": [{"heads": [' + "9" * 5000 + "]}]}")


@pytest.mark.parametrize("name", ["", "lpt", "__class__", "os.system"])
def test_unknown_rule_is_refused_with_the_known_ones(name: str) -> None:
    """A plan's rule comes from a closed list, which the refusal shows."""
    with pytest.raises(Refused, match="known are ltp, linear-threshold, top-k, random") as caught:
        rule_of(TokenPlan(name, (None,)))
    assert caught.value.code == "token-rule"


@pytest.mark.parametrize("seed", ["x", 0.5, True])
def test_random_rule_wants_a_whole_seed(seed: Any) -> None:
    """A seed that is no whole number is refused, not rounded and not a crash."""
    with pytest.raises(Refused, match="seed") as caught:
        rule_of(TokenPlan("random", (0.5,), {"seed": seed}))
    assert caught.value.code == "token-rule"


@pytest.mark.parametrize("rule", ["top-k", "random"])
@pytest.mark.parametrize("share", [-0.1, 1.5, 1e9])
def test_shares_lie_between_none_and_all(rule: str, share: float) -> None:
    """A share outside [0, 1] is refused with its layer."""
    with pytest.raises(Refused, match=r"layer 1.*\[0, 1\]") as caught:
        rule_of(TokenPlan(rule, (None, share)))
    assert caught.value.code == "token-rule"


@pytest.mark.parametrize("rule", ["ltp", "linear-threshold"])
@pytest.mark.parametrize("value", [-1.0, -1e-9, -1e9])
def test_thresholds_are_not_negative(rule: str, value: float) -> None:
    """A threshold below 0 is refused with its layer; nothing writes one, so the plan was damaged."""
    with pytest.raises(Refused, match=r"threshold -1.* at layer 1; expected a number from 0 up") as caught:
        rule_of(TokenPlan(rule, (None, value)))
    assert caught.value.code == "token-rule"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_are_finite(value: float) -> None:
    """NaN and infinity are no plan's, in values or options, built or read."""
    with pytest.raises(ValueError, match="finite number"):
        TokenPlan("ltp", (value,))
    with pytest.raises(ValueError, match="finite number"):
        TokenPlan("random", (0.5,), {"seed": value})
    text = json.dumps(example() | {"tokens": {"rule": "ltp", "values": [value]}})
    with pytest.raises(Refused) as caught:
        Plan.from_json(text)
    assert caught.value.code == "plan-invalid"


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("option", ["typo", "Seed", "", "x" * 5000])
def test_options_a_rule_does_not_read_are_refused(rule: str, option: str) -> None:
    """An option passed over would be another model than the plan's; a newer sparsam is the likelier reason."""
    with pytest.raises(Refused, match=rf"rule '{rule}' has the option .*; known are .*upgrade") as caught:
        rule_of(TokenPlan(rule, (0.5,), {option: 1}))
    assert caught.value.code == "token-rule"
    assert len(str(caught.value)) < 300


def mutate(obj: Any, rng: random.Random) -> Any:
    """One random change somewhere in a JSON value."""
    strange = [
        None,
        True,
        -1,
        0,
        1,
        2**70,
        0.5,
        -0.0,
        1e308,
        "",
        "ltp",
        "\x00",
        [],
        {},
        [[]],
        {"a": 1},
        [0, 1],
        "1",
    ]
    if isinstance(obj, dict) and obj and rng.random() < 0.85:
        out = dict(obj)
        key = rng.choice(list(out))
        act = rng.random()
        if act < 0.15:
            del out[key]
        elif act < 0.25:
            out[key + rng.choice(["", "x", " "])] = out.pop(key)
        else:
            out[key] = mutate(out[key], rng)
        return out
    if isinstance(obj, list) and obj and rng.random() < 0.85:
        place = rng.randrange(len(obj))
        act = rng.random()
        if act < 0.2:
            return obj[:place] + obj[place + 1 :]
        if act < 0.4:
            return [*obj[:place], obj[place], *obj[place:]]
        return [*obj[:place], mutate(obj[place], rng), *obj[place + 1 :]]
    return rng.choice(strange)


def test_two_thousand_mutated_plans_are_refused_or_valid() -> None:
    """A changed plan is refused by name or is a plan that round-trips; nothing else is ever raised."""
    rng, kinds, texts = (
        random.Random(0),
        {"valid": 0},
        {"plan-invalid": 0, "plan-version": 0, "token-rule": 0},
    )
    for index in range(2000):
        data = example()
        for _ in range(rng.randint(1, 3)):
            data = mutate(data, rng)
        text = json.dumps(data)
        if index % 4 == 0:  # and changes that know nothing of JSON
            place = rng.randrange(len(text))
            text = text[:place] + chr(rng.randrange(128)) + text[place + rng.randint(0, 2) :]
        try:
            plan = Plan.from_json(text if index % 2 == 0 else data)
        except Refused as error:
            texts[error.code] = max(texts[error.code], len(str(error)))
            continue
        kinds["valid"] += 1
        assert Plan.from_json(plan.to_json()) == plan
        if plan.tokens is not None and plan.tokens.rule in RULES:
            try:
                rule_of(plan.tokens)
            except Refused as error:
                texts[error.code] = max(texts[error.code], len(str(error)))
    assert 50 < kinds["valid"] < 1500
    assert set(texts) == {"plan-invalid", "plan-version", "token-rule"} and 0 < max(texts.values()) < 2000


def test_formats_are_written_where_there_are_any() -> None:
    """A product's number format comes back from JSON; a layer without one is written as before there were formats."""
    eight = Format(8, "tensor", 0.031, 117)
    plan = Plan("bert", (LayerPlan(formats={"qkv": eight, "up": Format(4)}), LayerPlan()))
    written = plan.to_json()
    assert Plan.from_json(json.dumps(written)) == plan
    assert plan.in_integers and not Plan.dense("bert", 2).in_integers
    assert written["layers"][1] == {"heads": None, "filters": None}


@pytest.mark.parametrize(
    "given",
    [
        {"bits": 1},
        {"bits": 9},
        {"scale": 0.1},
        {"input": "tensor"},
        {"scale": -1.0, "zero": 0},
        {"scale": 1.0, "zero": 256},
    ],
)
def test_impossible_format_is_refused(given: dict[str, Any]) -> None:
    """A format says how its inputs are read, or is refused when the plan is."""
    refused({"family": "bert", "layers": [{"formats": {"o": given}}]}, "plan-invalid")
