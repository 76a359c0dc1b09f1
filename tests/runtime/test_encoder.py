"""Layers in machine code: products in integers equal their reference, whatever the processor's layout, batch or threads."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparsam.attention import native
from sparsam.models import FAMILIES, lift
from sparsam.models.integers import put
from sparsam.plan import Format, LayerPlan, Plan
from sparsam.quantization.affine import integer_product, quantize_tokens
from sparsam.runtime import Batch, freeze
from sparsam.runtime.encoder import NativeProduct, layout, machine
from sparsam.runtime.integers import IntegerProduct
from sparsam.tokens.ltp import token_plan

LAYOUTS = {
    "of this processor": (),
    "four bytes a group": ("-DSPARSAM_GROUP=4",),
    "four bytes a group, wide": ("-DSPARSAM_GROUP=4", "-DSPARSAM_LANES=16"),
    "pairs, wide": ("-DSPARSAM_GROUP=2", "-DSPARSAM_LANES=16"),
}
SIZES = ((1, 32, 64), (7, 40, 50), (49, 65, 33), (100, 33, 17), (5, 8, 3), (3, 1, 1))
TOKEN, TENSOR = Format(8), Format(8, "tensor", 0.02, 120)


@pytest.fixture
def compiled() -> None:
    """Skips where this machine cannot compile."""
    if machine() is None:
        pytest.skip("no C compiler, or SPARSAM_NATIVE=0")


def linear(inputs: int, outputs: int, seed: int = 0) -> nn.Linear:
    """Weights on a grid of eight bits."""
    torch.manual_seed(seed)
    module = nn.Linear(inputs, outputs).requires_grad_(False)
    integers = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    put(module, integers, torch.rand(outputs) * 0.01 + 1e-3)
    return module


def of(frozen: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of a padded batch's living tokens."""
    if "pixel_values" in batch:
        return frozen.of_images(batch["pixel_values"])
    mask = batch["attention_mask"].bool()
    return frozen.logits(Batch(batch["input_ids"][mask], mask.sum(1)))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("flags", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_gives_the_same_integers(flags: tuple[str, ...]) -> None:
    """Sums are exact in each layout, so outputs equal bit for bit; against the reference they differ by float rounding."""
    code = machine(*flags)
    assert code is not None
    for number, (t, i, o) in enumerate(SIZES):
        module, x = linear(i, o, number), 2 * torch.randn(t, i)
        for form in (TOKEN, TENSOR):
            found = NativeProduct([module], form, code=code)(x)
            assert torch.equal(found, NativeProduct([module], form)(x))
        integers = (module.weight / module.weight_scale[:, None]).round().to(torch.int8)
        tokens = quantize_tokens(x)
        want = integer_product(
            tokens.q, tokens.zero, tokens.scale, integers, module.weight_scale, module.bias
        )
        torch.testing.assert_close(NativeProduct([module], TOKEN, code=code)(x), want, rtol=1e-5, atol=2e-5)
        floats = NativeProduct([module], None, code=code)(x)
        torch.testing.assert_close(floats, F.linear(x, module.weight, module.bias), rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("compiled")
def test_integer_sums_are_exact_at_the_ends() -> None:
    """The largest inputs times the largest weights: nothing saturates, in pairs nor in groups of four."""
    module = nn.Linear(64, 16, bias=False).requires_grad_(False)
    put(module, torch.full((16, 64), 127, dtype=torch.int8), torch.ones(16))
    x = torch.tensor([[255.0] * 64, [-255.0] * 64, [255.0, -255.0] * 32])
    for flags in LAYOUTS.values():
        found = NativeProduct([module], Format(8, "tensor", 1.0, 0), code=machine(*flags))(x)
        assert found[0].unique().tolist() == [255.0 * 127 * 64]
        assert found[1].unique().tolist() == [0.0]  # below the grid's first level
        assert found[2].unique().tolist() == [255.0 * 127 * 32]
        found = NativeProduct([module], TOKEN, code=machine(*flags))(x)
        torch.testing.assert_close(found[1], torch.full((16,), -255.0 * 127 * 64))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu-tanh"])
def test_activations_are_torchs(activation: str) -> None:
    """To a few millionths, far out, too."""
    module = nn.Linear(1, 1, bias=False).requires_grad_(False)
    module.weight.fill_(1.0)
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([0.0, 50.0, -50.0, 1e4, -1e4])])[:, None]
    found = NativeProduct([module], None, activation)(x)
    want = {
        "relu": F.relu,
        "gelu": F.gelu,
        "gelu-tanh": lambda y: F.gelu(y, approximate="tanh"),
    }[activation](x.double()).float()
    torch.testing.assert_close(found, want, rtol=2e-6, atol=5e-6)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_not_hidden(bad: float) -> None:
    """A token that holds NaN or infinity gives NaN; the others give what they gave."""
    module, x = linear(40, 9), torch.randn(5, 40)
    before = NativeProduct([module], TOKEN)(x)
    x[2, 33] = bad
    found = NativeProduct([module], TOKEN)(x)
    assert torch.isnan(found[2]).all()
    assert torch.equal(found[[0, 1, 3, 4]], before[[0, 1, 3, 4]])


@pytest.mark.usefixtures("compiled")
def test_zeros_and_nothing() -> None:
    """A token of zeros gives the bias; so does a product without inputs; no tokens give none."""
    module = linear(40, 9)
    assert torch.equal(NativeProduct([module], TOKEN)(torch.zeros(2, 40)), module.bias.expand(2, 9))
    empty = nn.Linear(0, 9).requires_grad_(False)
    assert torch.equal(NativeProduct([empty], None)(torch.zeros(3, 0)), empty.bias.expand(3, 9))
    assert NativeProduct([module], TOKEN)(torch.zeros(0, 40)).shape == (0, 9)


@pytest.mark.parametrize("form", ["token", "tensor"])
@pytest.mark.parametrize("rule", [None, (0.5, 0.9, 1.0)], ids=["dense", "ltp"])
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_frozen_model_answers_as_the_lifted_one(tiny: Any, name: str, rule: Any, form: str) -> None:
    """Every family with all products in integers: the simulation's answers, in machine code and without a compiler."""
    tokens = None if rule is None else token_plan(rule, relative_to="others")
    model = tiny.in_integers(
        lift(tiny.build(name), Plan(name, (LayerPlan(),) * 3, tokens=tokens)), name, inputs=form
    )
    batch = tiny.inputs(name, (12, 7, 1, 5))
    want = model(**batch).logits
    # A number on the edge between two levels may fall either way: a hundredth of the logits' size is a few such tokens.
    torch.testing.assert_close(of(freeze(model), batch), want, atol=0.02, rtol=0.02)


@pytest.mark.usefixtures("compiled")
@torch.no_grad()
def test_some_products_in_integers_and_layers_cut(tiny: Any) -> None:
    """Formats differ from layer to layer; a layer may have lost all its heads, or all its filters."""
    layers = (
        LayerPlan((0, 2), None, {"up": TOKEN, "down": TOKEN}),
        LayerPlan((), (0, 1, 2, 5), {"qkv": TOKEN}),
        LayerPlan(None, (), {"o": TOKEN}),
    )
    model = tiny.cut_in_integers("bert", layers)
    batch = tiny.inputs("bert", (12, 7, 1, 5))
    frozen = freeze(model)
    assert frozen.encoder.stack.layers is not None
    torch.testing.assert_close(of(frozen, batch), model(**batch).logits, atol=0.02, rtol=0.02)


@pytest.mark.usefixtures("compiled")
@torch.no_grad()
def test_batches_and_threads_change_nothing(tiny: Any) -> None:
    """A sequence's states are the same bit for bit alone, beside others, and on any number of threads."""
    model = tiny.in_integers(lift(tiny.build("bert")), "bert")
    stack = freeze(model).encoder.stack
    lengths = torch.tensor([9, 1, 30, 4, 17, 12, 12, 2])
    torch.manual_seed(0)
    x = torch.randn(int(lengths.sum()), model.config.hidden_size)
    together = stack.in_two_calls(x, lengths)
    alone = [stack.in_two_calls(part, torch.tensor([len(part)])) for part in x.split(lengths.tolist())]
    assert torch.equal(together, torch.cat(alone))
    before = torch.get_num_threads()
    try:
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(stack.in_two_calls(x, lengths), together)
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def test_without_a_compiler_the_same(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be compiled torch's operators multiply the same integers."""
    model = tiny.in_integers(lift(tiny.build("bert")), "bert")
    batch = tiny.inputs("bert", (12, 7, 1, 5))
    monkeypatch.setattr("sparsam.runtime.integers.machine", lambda: None)
    monkeypatch.setattr("sparsam.runtime.frozen.machine", lambda: None)
    monkeypatch.setattr(native, "kernel", lambda: None)
    frozen = freeze(model)
    assert all(isinstance(block.up, IntegerProduct) for block in frozen.encoder.stack.frozen)
    torch.testing.assert_close(of(frozen, batch), model(**batch).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("compiled")
def test_integers_are_multiplied_by_one_instruction_here() -> None:
    """On x86 with AVX2 and later the portable loop is not what runs."""
    import platform

    if platform.machine() != "x86_64" or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        pytest.skip("no x86 with AVX2")
    code = machine()
    assert code is not None
    assert layout(code)[2]
