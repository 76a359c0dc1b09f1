"""A whole encoder in integers: no float occurs, widths are kept, and the simulation that trains it gives the same integers."""

import itertools
from typing import Any

import pytest
import tiny_models
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sparsam.errors import Refused, Usage
from sparsam.models import lift
from sparsam.models.apply import cut
from sparsam.models.integer_only import left_in_floats, parts_of
from sparsam.plan import LayerPlan, Plan, TokenPlan
from sparsam.quantization import MSE, MinMax, MovingAverage, Percentile
from sparsam.quantization.integer_only import (
    IBert,
    IntegerEncoder,
    Parts,
    Weights,
    integer_matmul,
    integers,
    points,
    product,
)
from sparsam.quantization.rounded_encoder import LADDER, RoundedEncoder, Sequences, found_scales

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
METHODS = {
    "ours": IBert(),
    "polynomial": IBert("polynomial"),
    "the paper's widths": IBert("polynomial", 8, 8),
}


def sequences(lengths: list[int], seed: int = 0, first: int = 0, kinds: bool = False) -> Sequences:
    """Random token ids, packed."""
    made = torch.Generator().manual_seed(seed)
    t = sum(lengths)
    places = torch.cat([torch.arange(n) for n in lengths]) + first
    of_kind = torch.randint(0, 2, (t,), generator=made) if kinds else None
    return Sequences(torch.randint(2, 60, (t,), generator=made), places, of_kind, torch.tensor(lengths))


def ready(
    name: str = "bert",
    method: IBert = METHODS["ours"],
    left: tuple[LayerPlan, ...] | None = None,
    alone: bool = False,
) -> tuple[Any, Parts, dict[str, float]]:
    """A tiny lifted model, its parts, and scales from random tokens."""
    model = lift(tiny_models.build(name))
    if left is not None:
        cut(model, left)
    parts = parts_of(model)
    first = 2 if "roberta" in name else 0
    seen = [sequences([12, 7, 1, 5, 9], seed, first, name == "bert") for seed in range(1, 9)]
    return model, parts, found_scales(parts, seen, method, MSE(), alone=alone)


def run(encoder: IntegerEncoder, tokens: Sequences, **more: Any) -> torch.Tensor:
    return encoder.run(tokens.ids, tokens.positions, tokens.kinds, tokens.lengths, **more)


class FloatsSeen(TorchDispatchMode):
    """Notes every operation that takes or gives a tensor of floats."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        for one in torch.utils._pytree.tree_leaves((args, kwargs, out)):
            if isinstance(one, torch.Tensor) and (one.dtype.is_floating_point or one.dtype.is_complex):
                self.found.append(f"{func} {one.dtype}")
            if isinstance(one, float):
                self.found.append(f"{func} takes the float {one}")
        return out


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_no_float_occurs_from_token_ids_to_the_last_norm(method: IBert):
    """Every operation of a run is looked at: neither a tensor nor a number in it is floating; the watcher sees floats."""
    _, parts, scales = ready(method=method)
    encoder, tokens = integers(parts, scales, method), sequences([6, 2, 9], kinds=True)
    with FloatsSeen() as audit:
        found = run(encoder, tokens)
    assert audit.operations > 100
    assert audit.found == []
    assert not found.dtype.is_floating_point
    with FloatsSeen() as audit:
        RoundedEncoder(parts, scales, method).run(tokens)
    assert audit.found


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_intermediate_fits_its_width(method: IBert):
    """Least and largest integers of every point and sum, on tokens that calibration did not see; all are watched."""
    _, parts, scales = ready(method=method)
    seen: dict[str, int] = {}

    def watch(name: str, x: torch.Tensor, bits: int) -> None:
        assert not x.dtype.is_floating_point, name
        if x.numel():
            assert -(2 ** (bits - 1)) <= int(x.min()), (name, int(x.min()))
            assert int(x.max()) < 2 ** (bits - 1), (name, int(x.max()))
            seen[name] = max(seen.get(name, 0), int(x.abs().max()))

    run(integers(parts, scales, method), sequences([60, 3, 31], seed=77, kinds=True), watch=watch)
    assert set(points(3)) <= set(seen)
    assert {f"{i}.{name}.sums" for i in range(3) for name in ("q", "k", "v", "o", "hidden", "down")} <= set(
        seen
    )
    assert all(found > 0 for found in seen.values())


@pytest.mark.parametrize("alone", [False, True], ids=["all tokens", "first tokens"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_simulation_gives_the_same_integers(name: str, method: IBert, alone: bool):
    """Shifts on integers, and divisions and floors on floats: bit for bit the same, logits too; and near the float model."""
    _, parts, scales = ready(name, method, alone=alone)
    tokens = sequences([12, 3, 1, 40], seed=99, first=2 if name == "roberta" else 0, kinds=name == "bert")
    encoder = integers(parts, scales, method)
    found = run(encoder, tokens, alone=alone).double() * encoder.scale
    simulated = RoundedEncoder(parts, scales, method).run(tokens, alone=alone).detach()
    assert torch.equal(found, simulated)
    floats = RoundedEncoder(parts, None, method).run(tokens, alone=alone).detach()
    assert 0 < float((found - floats).abs().mean()) < 0.08 * float(floats.abs().mean())


def test_unrounded_form_is_the_model_itself():
    """What calibration runs gives transformers' states; with token types and padding."""
    model, parts, _ = ready()
    batch = tiny_models.text((12, 7, 1, 5))
    mask = batch["attention_mask"].bool()
    kinds = torch.randint(0, 2, mask.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = model.bert(**batch, token_type_ids=kinds).last_hidden_state[mask]
    places = torch.arange(mask.shape[1]).expand_as(mask)[mask]
    tokens = Sequences(batch["input_ids"][mask], places, kinds[mask], mask.sum(1))
    found = RoundedEncoder(parts, None, IBert()).run(tokens).detach().float()
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)


def test_batch_and_threads_change_no_integer():
    """A sequence by itself, in company, in another order, with one thread or two: the same integers."""
    _, parts, scales = ready()
    encoder, lengths = integers(parts, scales, IBert()), [12, 3, 1, 30]
    tokens = sequences(lengths, seed=5, kinds=True)
    whole = run(encoder, tokens).split(lengths)
    pieces = [part.split(lengths) for part in (tokens.ids, tokens.positions, tokens.kinds)]
    for row in range(4):
        single = Sequences(pieces[0][row], pieces[1][row], pieces[2][row], torch.tensor([lengths[row]]))
        assert torch.equal(run(encoder, single), whole[row])
    back = Sequences(*(torch.cat(part[::-1]) for part in pieces), torch.tensor(lengths[::-1]))
    assert torch.equal(run(encoder, back), torch.cat(whole[::-1]))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(run(encoder, tokens), torch.cat(whole))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(run(encoder, tokens, alone=True), torch.stack([part[0] for part in whole]))


def test_pruned_layers_run_down_to_nothing():
    """Fewer heads and filters in one layer, none in others: the simulation's integers, and near the float model."""
    left = (
        LayerPlan(heads=(1, 3), filters=tuple(range(0, 44, 2))),
        LayerPlan(heads=(), filters=None),
        LayerPlan(heads=(0,), filters=()),
    )
    for alone in (False, True):
        _, parts, scales = ready(left=left, alone=alone)
        assert [one.q.weight.shape[0] for one in parts.layers] == [16, 0, 8]
        encoder, tokens = integers(parts, scales, IBert()), sequences([12, 3, 1], seed=9, kinds=True)
        found = run(encoder, tokens, alone=alone).double() * encoder.scale
        assert torch.equal(found, RoundedEncoder(parts, scales, IBert()).run(tokens, alone=alone).detach())
        floats = RoundedEncoder(parts, None, IBert()).run(tokens, alone=alone).detach()
        assert float((found - floats).abs().mean()) < 0.2 * float(floats.abs().mean())


def test_both_additions_of_embeddings_have_ranges_of_their_own():
    """One scale each: positions a hundred times as large as words leave the first sum's scale as it was."""
    model, _, before = ready()
    with torch.no_grad():
        model.bert.embeddings.position_embeddings.weight.mul_(100)
    seen = [sequences([12, 7, 1, 5, 9], seed, kinds=True) for seed in range(1, 9)]
    after = found_scales(parts_of(model), seen, IBert(), MSE())
    assert after["embeddings.sum"] == before["embeddings.sum"]
    assert after["embeddings.norm_in"] > 10 * before["embeddings.norm_in"]


def test_context_lies_on_the_grid_of_probabilities_times_values():
    """Values ten times as large are ten times as large in the context; queries' scale has no part in it."""
    _, parts, scales = ready()
    layer = integers(parts, scales, IBert()).layers[0]
    want = scales["0.v"] * 2.0**-15 / scales["0.context"]
    assert float(layer.context.value()) == pytest.approx(want, rel=1e-6)
    other = integers(parts, scales | {"0.q": 7 * scales["0.q"]}, IBert()).layers[0]
    assert float(other.context.value()) == pytest.approx(want, rel=1e-6)
    assert float(other.logits.value()) == pytest.approx(7 * float(layer.logits.value()), rel=1e-6)


def test_largest_weight_of_a_channel_is_kept():
    """A channel whose largest weight is positive keeps all of it: 127, where the released code cuts to 126."""
    weight = torch.tensor([[0.5, -0.2], [-0.5, 0.2]])
    made = product(Weights(weight, None), 0.1, 0.1)
    assert made.weight.tolist() == [[127, -51], [-127, 51]]


def test_product_without_bias_runs():
    """It has zeros for one."""
    made = product(Weights(torch.tensor([[1.0, -1.0]]), None), 0.1, 0.1)
    assert made.bias.tolist() == [0]
    assert made.sums(torch.tensor([[3, 1]], dtype=torch.int8)).tolist() == [[254]]


def test_sums_are_exact_in_every_shape():
    """One input, one output, one token and more: those of a product in 64 bits (torch's own is wrong for one input)."""
    made = torch.Generator().manual_seed(0)
    for t, i, o in itertools.product((1, 2, 17), (0, 1, 2, 3, 7, 64), (1, 3, 8, 66)):
        x, w = (
            torch.randint(-127, 128, shape, generator=made, dtype=torch.int8) for shape in ((t, i), (o, i))
        )
        assert torch.equal(integer_matmul(x, w), (x.long() @ w.long().t()).int()), (t, i, o)


def test_sums_beyond_24_bits_are_exact_in_the_simulation():
    """All filters of a layer wide open and all weights of one sign: sums above 2^24, odd ones, too, and the same integers."""
    model = lift(tiny_models.build("bert", intermediate_size=1301, num_hidden_layers=1))
    layer = model.bert.encoder.layer[0]
    with torch.no_grad():
        layer.output.dense.weight.fill_(0.01)
        layer.intermediate.dense.weight.mul_(1e-3)
        layer.intermediate.dense.bias.fill_(3.0)
    tokens = sequences([12, 7, 30], seed=3, kinds=True)
    parts = parts_of(model)
    scales = found_scales(parts, [tokens], IBert(), MinMax())
    sums: list[torch.Tensor] = []
    encoder = integers(parts, scales, IBert())
    found = run(encoder, tokens, watch=lambda name, x, _: sums.append(x) if name == "0.down.sums" else None)
    assert int(sums[0].max()) > 2**24
    assert int((sums[0] % 2).sum()) > 0
    assert torch.equal(
        found.double() * encoder.scale, RoundedEncoder(parts, scales, IBert()).run(tokens).detach()
    )


def test_sums_that_could_overflow_are_refused():
    """A bias far beyond the scale of the inputs, and more inputs than 32 bits take."""
    with pytest.raises(Refused, match=r"could reach .* 32 bits hold 2,147,483,647"):
        product(Weights(torch.ones(1, 2), torch.tensor([1e9])), 1e-3, 0.1)
    with pytest.raises(Refused, match="more inputs than"):
        product(Weights(torch.ones(1, 140_000), None), 1e-3, 0.1)


def test_gradients_are_nearly_those_of_the_float_model():
    """Straight through: the rounded model's gradient of every weight points where the float model's does."""
    model, parts, scales = ready()
    tokens, aim = sequences([12, 7, 9, 30], seed=3, kinds=True), torch.Generator().manual_seed(1)
    wanted = torch.randn(58, 32, generator=aim).double()
    grads = []
    for given in (None, scales):
        model.zero_grad()
        F.mse_loss(RoundedEncoder(parts, given, IBert()).run(tokens), wanted).backward()
        grads.append({n: p.grad.clone() for n, p in model.bert.named_parameters() if p.grad is not None})
    assert len(grads[1]) == len(grads[0]) > 50
    for name, exact in grads[0].items():
        if name.endswith("key.bias"):
            continue  # softmax does not depend on it: its gradient is 0 but for rounding
        assert float(F.cosine_similarity(exact.flatten(), grads[1][name].flatten(), dim=0)) > 0.8, name


def test_training_with_rounding_teaches_the_integers():
    """Steps on the rounded model towards given states bring the states of the integers made afterwards there, too."""
    model, parts, scales = ready()
    tokens = sequences([12, 7, 9, 30], seed=3, kinds=True)
    wanted = torch.randn(58, 32, generator=torch.Generator().manual_seed(1)).double()
    rounded, step = RoundedEncoder(parts, scales, IBert()), torch.optim.Adam(model.bert.parameters(), 3e-3)
    losses = []
    for _ in range(15):
        step.zero_grad()
        loss = F.mse_loss(rounded.run(tokens), wanted)
        loss.backward()
        step.step()
        losses.append(float(loss.detach()))
    encoder = integers(parts, scales, IBert())
    found = run(encoder, tokens).double() * encoder.scale
    assert torch.equal(found, rounded.run(tokens).detach())
    assert float(F.mse_loss(found, wanted)) < 0.8 * losses[0]


def test_ladder_tells_what_each_function_costs():
    """Each rung runs; a table is already exact, so GELU in floats changes nothing; all three in floats are no farther off."""
    _, parts, scales = ready(method=METHODS["polynomial"])
    tokens = sequences([12, 3, 1, 40], seed=99, kinds=True)
    for method, same in ((IBert(), True), (METHODS["polynomial"], False)):
        _, parts, scales = ready(method=method)
        floats = RoundedEncoder(parts, None, method).run(tokens).detach()
        found = {rung: RoundedEncoder(parts, scales, method, rung).run(tokens).detach() for rung in LADDER}
        far = {rung: float((states - floats).abs().mean()) for rung, states in found.items()}
        assert torch.equal(found["none"], found["gelu"]) is same
        assert far["nonlinear"] < 1.05 * far["none"]
        assert not torch.equal(found["none"], found["softmax"])
        assert not torch.equal(found["none"], found["layernorm"])
    with pytest.raises(Usage, match="force_dequant is one of none, gelu"):
        RoundedEncoder(parts, scales, IBert(), "all")


def test_scales_do_not_depend_on_batches():
    """Rows one by one give the scales that they give together, with each method; a moving average is refused."""
    parts = parts_of(lift(tiny_models.build("bert")))
    tokens = sequences([12, 7, 1, 5], seed=1)
    parts_by = [x.split([12, 7, 1, 5]) for x in (tokens.ids, tokens.positions)]
    single = [Sequences(i, p, None, torch.tensor([len(i)])) for i, p in zip(*parts_by, strict=True)]
    for method in (MSE(), MinMax(), Percentile(99.0)):
        together, apart = (found_scales(parts, b, IBert(), method) for b in ([tokens], single))
        for point, scale in together.items():
            assert apart[point] == pytest.approx(scale, rel=2e-2), point
    with pytest.raises(Usage, match="moving average"):
        found_scales(parts, [tokens], IBert(), MovingAverage())
    with pytest.raises(Refused, match="nothing was calibrated"):
        found_scales(parts, [], IBert(), MSE())


def test_norms_read_16_bits_at_least():
    """Residual outliers are why: the widths of norms' inputs and of the stream in front of them."""
    seen: dict[str, int] = {}
    _, parts, scales = ready()
    run(
        integers(parts, scales, IBert()),
        sequences([4]),
        watch=lambda name, x, bits: seen.update({name: bits}),
    )
    assert {bits for name, bits in seen.items() if name.endswith("norm_in")} == {22}
    assert {bits for name, bits in seen.items() if name.endswith("residual")} == {16}


def test_what_stays_in_floats_is_listed():
    """Pooler and classifier, by name."""
    assert left_in_floats(lift(tiny_models.build("bert"))) == ("bert.pooler.dense", "classifier")
    assert left_in_floats(lift(tiny_models.build("distilbert"))) == ("pre_classifier", "classifier")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("mpnet", "its positions are relative"),
        ("electra", "narrower than its layers"),
        ("vit", "it reads no words"),
    ],
)
def test_model_that_integers_do_not_know_is_refused(name: str, why: str):
    """By name, with what to do instead."""
    with pytest.raises(Refused, match=f"{why}.*--method int8"):
        parts_of(lift(tiny_models.build(name)))


def test_token_rule_is_refused():
    """Its scores are floats."""
    plan = Plan("bert", (LayerPlan(),) * 3, TokenPlan("ltp", (0.1, 0.1, None)))
    with pytest.raises(Refused, match="rule removes tokens"):
        parts_of(lift(tiny_models.build("bert"), plan))


def test_other_activation_takes_a_table_alone():
    """ReLU and GELU by tanh have tables; the polynomial is refused for them."""
    for act in ("relu", "gelu_new"):
        parts = parts_of(lift(tiny_models.build("bert", hidden_act=act)))
        tokens = sequences([12, 7, 30], kinds=True)
        scales = found_scales(parts, [tokens], IBert(), MinMax())
        encoder = integers(parts, scales, IBert())
        assert torch.equal(
            run(encoder, tokens).double() * encoder.scale,
            RoundedEncoder(parts, scales, IBert()).run(tokens).detach(),
        )
        with pytest.raises(Refused, match="polynomial is for GELU by erf"):
            integers(parts, scales, METHODS["polynomial"])


def test_settings_and_scales_are_checked():
    """Other widths than those that are built, a point without scale, a sequence without tokens."""
    with pytest.raises(Usage, match="probabilities is 15 or 8; got 16"):
        IBert(probabilities=16)
    _, parts, scales = ready()
    with pytest.raises(Refused, match=r"1\.q needs a scale above 0; got None"):
        integers(parts, {p: s for p, s in scales.items() if p != "1.q"}, IBert())
    with pytest.raises(Refused, match="got 0"):
        integers(parts, scales | {"1.q": 0.0}, IBert())
    empty = sequences([3])
    with pytest.raises(Usage, match="each sequence has one at least"):
        integers(parts, scales, IBert()).run(empty.ids, empty.positions, None, torch.tensor([3, 0]))


def test_digest_tells_encoders_apart():
    """The same floats give the same digest; another scale, or one weight more, another."""
    model, parts, scales = ready()
    made = integers(parts, scales, IBert()).digest()
    assert made == integers(parts, scales, IBert()).digest()
    assert made != integers(parts, scales | {"0.q": 1.5 * scales["0.q"]}, IBert()).digest()
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.bias[0] += 1
    assert made != integers(parts, scales, IBert()).digest()
