"""Recording a run: what is written is what the model multiplied, by name, whatever kind of model it is."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
import torch.nn.functional as F
from torch import nn

import sparsam
from sparsam.errors import Refused, Usage
from sparsam.models import plan_of, stack_of
from sparsam.models.count import count, shapes_of
from sparsam.models.integers import integers_of, scales_of
from sparsam.plan import LayerPlan, Plan, TokenPlan
from sparsam.runtime.record import Recorder, record
from sparsam.workload import Attention, Conv, Gemm, Workload, Writer


def by_name(found: Workload, role: str = "forward") -> dict[str, Any]:
    """Layers of a role."""
    return {one.name: one for one in found if one.role == role}


def product(one: Gemm) -> np.ndarray:
    """The real product of recorded operands."""
    return one.a.real() @ one.b.real().T


def near(found: np.ndarray, wanted: torch.Tensor, share: float) -> bool:
    """Whether the error is at most a share of the wanted numbers' size (root mean squares)."""
    wanted_array = wanted.detach().numpy()
    assert found.shape == wanted_array.shape
    error = float(np.sqrt(np.mean((found - wanted_array) ** 2)))
    return error <= share * float(np.sqrt(np.mean(wanted_array**2)))


class Residual(nn.Module):
    """A block of a small ResNet."""

    def __init__(self, c: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c, o, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(o)
        self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(o)
        self.down = nn.Conv2d(c, o, 1, stride, bias=False) if stride > 1 or c != o else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.down(x), inplace=True)


class ResNet(nn.Module):
    """Three blocks on pictures of 16 x 16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding="same")
        self.blocks = nn.Sequential(Residual(8, 8, 1), Residual(8, 12, 2), Residual(12, 16, 2))
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


def outputs_of(model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
    """What each leaf module gives, without its bias, in a run of its own."""
    found: dict[str, torch.Tensor] = {}
    handles = []
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.Conv1d):

            def hook(module: Any, args: Any, output: torch.Tensor, name: str = name) -> None:
                bias = 0 if module.bias is None else module.bias
                if not isinstance(module, nn.Linear) and module.bias is not None:
                    bias = module.bias.view(-1, *[1] * (output.dim() - 2))
                found[name] = (output - bias).detach()

            handles.append(part.register_forward_hook(hook))
    with torch.no_grad():
        model(**batch) if isinstance(batch, dict) else model(batch)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize(("format", "share"), [("int8", 0.03), ("bf16", 0.006)])
def test_a_resnet_is_recorded_conv_by_conv(tmp_path, format, share):
    """Every convolution and the head, in the order they ran; replayed operands give the module's own output."""
    model = ResNet().eval()
    images = torch.randn(2, 3, 16, 16)
    wanted = outputs_of(model, images)
    found = record(model, [images], tmp_path / "trace", format=format)
    assert [one.name for one in found] == list(wanted)
    for one in found:
        if isinstance(one, Conv):
            made = np.concatenate([product(part) for part in one.products()], 1)
            made = made.reshape(one.x.shape[0], *one.out, -1).transpose(0, 3, 1, 2)
        else:
            made = product(one)
        assert near(made, wanted[one.name], share), one.name
        assert all(x.format == format for x in one.tensors().values())
    assert found.facts["left_out"] == []
    assert found.facts["rows"] == 2
    assert found.facts["macs"] == sum(one.macs for one in found)
    assert found[1].x.density < 0.9  # what ReLU made zero is zero


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 1), (1, 2), groups=2),
        lambda: nn.Conv2d(4, 8, 3, 1, 1, groups=4, padding_mode="reflect"),
        lambda: nn.Conv2d(4, 3, (4, 2), padding="same"),
        lambda: nn.Conv2d(4, 3, 2, padding="valid"),
        lambda: nn.Conv1d(4, 6, 3, 2, 1, 2, groups=2),
        lambda: nn.Conv1d(4, 6, 4, padding="same", padding_mode="circular"),
    ],
)
def test_convolutions_of_every_form(tmp_path, make):
    """Padding modes, names of padding, groups, one dimension."""
    module = make()
    flat = isinstance(module, nn.Conv1d)
    x = torch.randn(2, 4, 9) if flat else torch.randn(2, 4, 9, 8)
    wanted = outputs_of(nn.ModuleDict({"it": module}).it, x)[""]
    (one,) = record(module, [x], tmp_path / "trace", format="bf16")
    made = np.concatenate([product(part) for part in one.products()], 1)
    made = made.reshape(2, *one.out, -1).transpose(0, 3, 1, 2)
    assert near(made[:, :, 0] if flat else made, wanted, 0.006)
    assert one.name == type(module).__name__


@pytest.mark.parametrize("name", tiny_models.TEXT + tiny_models.IMAGES)
def test_a_lifted_encoder_is_recorded_product_by_product(tmp_path, name):
    """Each linear module once, attention of packed tokens, and as many multiplications as are counted for the encoder."""
    model = sparsam.lift(tiny_models.build(name))
    batch = tiny_models.inputs(name)
    wanted = outputs_of(model, batch)
    found = by_name(record(model, [batch], tmp_path / "trace", format="bf16"))
    for key, out in wanted.items():
        made = product(found[key]) if isinstance(found[key], Gemm) else None
        if made is not None:
            assert near(made, out.reshape(-1, out.shape[-1]), 0.01), key
    attention = [one for one in found.values() if isinstance(one, Attention)]
    assert len(attention) == 3
    living = tiny_models.alive(name, batch).sum(1).numpy()
    assert all(np.array_equal(one.lengths, living) for one in attention)
    assert (attention[0].bias is not None) == (name == "mpnet")
    cost = count(model, stack_of(model), [batch]).cost
    assert sum(one.macs for one in attention) == cost.attention
    encoder = [one for key, one in found.items() if isinstance(one, Gemm) and key in inside(model)]
    assert sum(one.macs for one in encoder) == cost.projections + cost.ffn


def inside(model: Any) -> set[str]:
    """Names of the modules in the layers of a lifted model."""
    parts = {id(part) for block in stack_of(model).blocks for part in block.layer.modules()}
    return {name for name, part in model.named_modules() if id(part) in parts}


@pytest.mark.parametrize("name", ["bert", "mpnet", "vit"])
def test_recorded_attention_gives_what_the_encoder_mixed(tmp_path, name):
    """Probabilities times values are what the output projection reads."""
    model = sparsam.lift(tiny_models.build(name))
    batch = tiny_models.inputs(name)
    seen: list[torch.Tensor] = []
    block = stack_of(model).blocks[1]
    handle = block.part("o").register_forward_hook(lambda module, args, out: seen.append(args[0].detach()))
    found = by_name(record(model, [batch], tmp_path / "trace", format="bf16"))
    handle.remove()
    one = [x for x in found.values() if isinstance(x, Attention)][1]
    mixed = np.concatenate(
        [
            np.concatenate([one.probabilities(rows, head) @ one.v.real()[rows, head] for head in range(4)], 1)
            for rows in one.sequences()
        ]
    )
    assert near(mixed, seen[0], 0.02)


def test_removed_tokens_and_heads_are_not_in_the_trace(tmp_path):
    """Lengths shrink from layer to layer, places name the tokens that are left, heads those of the dense model."""
    model = tiny_models.build("bert")
    plan = Plan(
        "bert", (LayerPlan(heads=(0, 3)), LayerPlan(heads=(1,)), LayerPlan(filters=())),
        TokenPlan("top-k", (0.6, 0.3, None)),
    )  # fmt: skip
    small, _ = tiny_models.sever(model, "bert", plan)
    lifted = sparsam.lift(small, plan)
    batch = tiny_models.text((12, 7, 1, 5), side="holes")
    stack = stack_of(lifted)
    with stack.recording() as kept, torch.no_grad():
        lifted(**batch)
    states = kept.attention
    found = record(lifted, [batch], tmp_path / "trace")
    attention = [one for one in found if isinstance(one, Attention)]
    assert [one.heads for one in attention] == [(0, 3), (1,), None]
    for one, lengths in zip(attention, states, strict=True):
        assert one.lengths.tolist() == lengths.tolist()
    assert attention[0].tokens is None
    assert attention[2].lengths.sum() < attention[1].lengths.sum() < attention[0].lengths.sum() == 25
    for one in attention[1:]:
        for rows, longest in zip(one.sequences(), (12, 7, 1, 5), strict=True):
            places = one.tokens[rows]
            assert places[0] == 0  # the class token stays
            assert (np.diff(places) > 0).all()
            assert places[-1] < longest
    before = set(zip(np.repeat(np.arange(4), attention[1].lengths), attention[1].tokens, strict=True))
    after = set(zip(np.repeat(np.arange(4), attention[2].lengths), attention[2].tokens, strict=True))
    assert after < before
    names = {one.name for one in found}
    assert not any("layer.2.intermediate" in name or "layer.2.output" in name for name in names)
    assert Plan.from_json(found.facts["plan"]) == plan
    cost = count(lifted, stack, [batch]).cost
    assert sum(one.macs for one in attention) == cost.attention
    assert stack.states is None
    assert "run" not in vars(stack)


def test_places_of_tokens_are_those_of_the_sequence(tmp_path):
    """The rows of the padded batch, whatever the padding: checked against what the encoder says itself."""
    plan = Plan("bert", (LayerPlan(),) * 3, TokenPlan("top-k", (0.4, None, None)))
    lifted = sparsam.lift(tiny_models.build("bert"), plan)
    batch = tiny_models.text((9, 4, 6), side="holes")
    stack = stack_of(lifted)
    states: list[Any] = []
    stack.states = states
    with torch.no_grad():
        lifted(**batch)
    stack.states = None
    one = [x for x in record(lifted, [batch], tmp_path / "trace") if isinstance(x, Attention)][1]
    left = states[0]
    wanted = []
    for row in range(3):
        whole = batch["attention_mask"][row].nonzero().squeeze(1).tolist()
        here = left.positions[left.sequences == row].tolist()
        wanted += [whole.index(at) for at in here]
    assert one.tokens.tolist() == wanted


@pytest.mark.parametrize("name", ["bert", "vit", "distilbert"])
@pytest.mark.parametrize("side", ["right", "holes"])
def test_a_stock_model_has_the_same_attention_as_the_lifted_one(tmp_path, name, side):
    """Padding is left out where nobody looks at it; names are those of the module that attends."""
    batch = tiny_models.inputs(name, side=side) if name != "vit" else tiny_models.inputs(name)
    stock = tiny_models.build(name, attention="sdpa")
    first = record(stock, [batch], tmp_path / "stock", format="bf16")
    second = record(sparsam.lift(stock), [batch], tmp_path / "lifted", format="bf16")
    ours, theirs = ([x for x in found if isinstance(x, Attention)] for found in (second, first))
    assert [x.name for x in ours] == [x.name for x in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.lengths.tolist() == other.lengths.tolist()
        assert one.scale == pytest.approx(other.scale)
        assert (one.causal, one.bias, other.bias) == (other.causal, None, None)
        for key in "qkv":
            a, b = getattr(one, key).real(), getattr(other, key).real()
            assert np.allclose(a, b, atol=0.02 * np.abs(a).max())
    assert first.facts["left_out"] == []


def test_attention_that_cannot_be_seen_is_named(tmp_path):
    """Eager attention multiplies by itself: its products are missing, and the trace says so."""
    stock = tiny_models.build("bert", attention="eager")
    found = record(stock, [tiny_models.inputs("bert")], tmp_path / "trace")
    assert not any(isinstance(one, Attention) for one in found)
    left = found.facts["left_out"]
    assert len(left) == 3
    assert left[0]["layer"] == "bert.encoder.layer.0.attention.self"
    assert "sdpa" in left[0]["why"]


def test_a_decoder_is_causal(tmp_path):
    """GPT-2: its Conv1D are linear layers, its attention looks back; padding on the left is left out."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=50, n_positions=32, n_embd=32, n_layer=2, n_head=4),
    ).eval()
    batch = {
        "input_ids": torch.randint(0, 50, (2, 7)),
        "attention_mask": torch.tensor([[1] * 7, [0] * 3 + [1] * 4]),
        "use_cache": False,
    }
    found = by_name(record(model, [batch], tmp_path / "trace", format="bf16"))
    one = found["transformer.h.0.attn"]
    assert one.causal
    assert one.lengths.tolist() == [7, 4]
    assert one.bias is None
    fused = found["transformer.h.0.attn.c_attn"]
    assert fused.size == (14, 96, 32)
    weight = model.transformer.h[0].attn.c_attn.weight
    assert np.allclose(fused.b.real(), weight.T.detach().numpy(), rtol=2**-8)
    p = one.probabilities(slice(0, 7), 0)
    assert np.allclose(p, np.tril(p))


@pytest.mark.parametrize("batch_first", [True, False])
def test_torch_s_own_attention_is_worked_out_from_its_inputs(tmp_path, batch_first):
    """Projections, attention with masks, output projection: products equal the module's answer."""
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=batch_first, dropout=0.0).eval()
    x = torch.randn(2, 5, 16)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    seen: list[torch.Tensor] = []
    handle = layer.self_attn.register_forward_hook(lambda module, args, out: seen.append(out[0].detach()))
    batch = {"src": x if batch_first else x.transpose(0, 1), "src_key_padding_mask": padding}
    found = by_name(record(layer, [batch], tmp_path / "trace", format="bf16"))
    handle.remove()
    assert list(found) == [
        "self_attn.q", "self_attn.k", "self_attn.v", "self_attn", "self_attn.out_proj", "linear1", "linear2",
    ]  # fmt: skip
    assert found["self_attn"].lengths.tolist() == [5, 3]
    out = product(found["self_attn.out_proj"]) + layer.self_attn.out_proj.bias.detach().numpy()
    wanted = seen[0] if batch_first else seen[0].transpose(0, 1)
    assert near(out, wanted.reshape(-1, 16), 0.02)


def test_integers_of_a_plan_stay_as_they_are(tmp_path):
    """Values and scales are those of the model, bit for bit; other weights are rounded."""
    model = tiny_models.in_integers(tiny_models.build("bert"), "bert", bits=6)
    found = record(model, [tiny_models.inputs("bert")], tmp_path / "trace")
    names = dict(model.named_modules())
    kept = found.facts["integers_of_the_plan"]
    assert len(kept) == 6 * 3
    layers = by_name(found)
    for name in kept:
        assert np.array_equal(layers[name].b.values, integers_of(names[name]).numpy())
        assert np.array_equal(layers[name].b.scale, scales_of(names[name]).numpy())
        assert np.abs(layers[name].b.values).max() <= 31
    head = layers["classifier"].b
    assert np.abs(head.values).max() == 127


def gradients(model: nn.Module, batch: Any, loss: Any) -> dict[str, SimpleNamespace]:
    """Gradients of inputs and weights as autograd has them, by module."""
    found: dict[str, SimpleNamespace] = {}

    def hook(name: str) -> Any:
        def keep(module: Any, args: Any) -> None:
            found[name] = SimpleNamespace(input=None, weight=module.weight)
            if args[0].requires_grad:
                args[0].register_hook(lambda g: setattr(found[name], "sum", g))

        return keep

    handles = [
        part.register_forward_pre_hook(hook(name))
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear | nn.Conv2d | nn.Conv1d)
    ]
    model.train()
    loss(model, batch).backward()
    for handle in handles:
        handle.remove()
    for one in found.values():
        one.weight = one.weight.grad.clone()
    model.zero_grad()
    return found


def folded(parts: list[Conv], name: str, shape: tuple[int, ...], stride: tuple[int, int]) -> np.ndarray:
    """The input's gradient put together from its phases."""
    whole = np.zeros(shape, np.float32)
    for part in parts:
        i, j = (0, 0) if part.name == name else map(int, part.name[len(name) + 1 : -1].split(","))
        made = np.concatenate([product(one) for one in part.products()], 1)
        made = made.reshape(part.x.shape[0], *part.out, -1).transpose(0, 3, 1, 2)
        whole[:, :, i :: stride[0], j :: stride[1]] = made
    return whole


TRAINED = [
    lambda: nn.Conv2d(4, 6, 3, 1, 1),
    lambda: nn.Conv2d(4, 6, 3, 2, 1),
    lambda: nn.Conv2d(4, 6, (3, 2), (2, 3), (0, 1), (1, 2), groups=2),
    lambda: nn.Conv2d(4, 4, 3, (1, 2), 2, groups=4),
    lambda: nn.Conv2d(4, 6, 1, 2),
    lambda: nn.Conv2d(4, 6, 2, 3, 0, 2),
    lambda: nn.Conv2d(4, 6, 3, 4, 4, 2),
    lambda: nn.Conv2d(4, 6, 5, 1, 0, 1),
    lambda: nn.Conv2d(4, 6, 3, 2, 3, 3),
    lambda: nn.Conv1d(4, 6, 3, 2, 1),
]


@pytest.mark.parametrize("make", TRAINED)
def test_gradients_of_a_convolution_are_autograd_s(tmp_path, make):
    """Of its input and of its weights, for strides, paddings, dilations and groups that do not divide evenly."""
    torch.manual_seed(1)
    module = make()
    flat = isinstance(module, nn.Conv1d)
    x = torch.randn(2, 4, 11) if flat else torch.randn(2, 4, 10, 11)
    x.requires_grad_()
    pull = torch.randn_like(module(x))
    loss = lambda model, batch: (model(batch) * pull).sum()  # noqa: E731
    loss(module, x).backward()
    given = x.grad.clone()
    found = record(module, [x], tmp_path / "trace", train=True, loss=loss, format="bf16")
    name = type(module).__name__
    stride = (1, *module.stride) if flat else module.stride
    images = given.unsqueeze(2) if flat else given
    parts = [one for one in found if one.role == "grad_input"]
    assert near(folded(parts, name, tuple(images.shape), stride), images, 0.01)
    weight = module.weight.grad.unsqueeze(2) if flat else module.weight.grad
    o, per, kh, kw = weight.shape
    sums = [product(one) for one in found if one.role == "grad_weight"]
    assert len(sums) == module.groups
    made = np.concatenate(sums).reshape(o, kh, kw, per).transpose(0, 3, 1, 2)
    assert near(made, weight, 0.01)


def test_a_step_of_training_has_three_products_a_layer(tmp_path):
    """Forward, the gradient of the input (not for the first layer) and of the weights (not for frozen ones)."""
    model = ResNet()
    model.head.weight.requires_grad_(False)
    images, labels = torch.randn(3, 3, 16, 16), torch.tensor([0, 1, 4])
    before = {name: x.clone() for name, x in model.state_dict().items()}
    model.eval()
    loss = lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])  # noqa: E731
    found = record(model, [(images, labels)], tmp_path / "trace", train=True, loss=loss)
    names = list(by_name(found))
    assert len(names) == 1 + 6 + 2 + 1
    backward = {one.name.partition("[")[0] for one in found if one.role == "grad_input"}
    assert backward == set(names) - {"stem"}
    assert {one.name for one in found if one.role == "grad_weight"} == set(names) - {"head"}
    assert found[0].x.format == "bf16"
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_gradients_of_linear_layers_are_autograd_s(tmp_path):
    """In a lifted encoder that trains: gradients of weights and inputs, from operands as they were recorded."""
    model = sparsam.lift(tiny_models.build("bert"))
    batch = tiny_models.inputs("bert") | {"labels": torch.tensor([0, 1, 2, 1])}
    wanted = gradients(model, batch, lambda model, batch: model(**batch).loss)
    found = record(model, [batch], tmp_path / "trace", train=True, format="bf16")
    sums, inputs = by_name(found, "grad_weight"), by_name(found, "grad_input")
    for name, one in wanted.items():
        assert near(product(sums[name]), one.weight, 0.02), name
    assert "bert.encoder.layer.1.intermediate.dense" in inputs
    alone = "bert.encoder.layer.1.intermediate.dense"  # its input is read by the residual, too: take one read by it alone
    alone = "bert.encoder.layer.1.output.dense"
    assert near(product(inputs[alone]), wanted[alone].sum, 0.02)
    assert {one["layer"] for one in found.facts["left_out"]} == {
        f"bert.encoder.layer.{at}.attention.self (gradients)" for at in range(3)
    }


def test_gradient_checkpointing_records_each_layer_once(tmp_path):
    """Activations that are worked out a second time are no second call."""
    model = sparsam.lift(tiny_models.build("bert"))
    model.gradient_checkpointing_enable()
    batch = tiny_models.inputs("bert") | {"labels": torch.tensor([0, 1, 2, 1])}
    found = record(model, [batch], tmp_path / "trace", train=True)
    assert not any("#" in one.name for one in found)
    assert len([one for one in found if one.role == "grad_weight"]) == 6 * 3 + 2


def test_a_layer_that_is_called_again_gets_a_number(tmp_path):
    """Shared modules, and several batches."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(self.inner(x))

    found = record(Twice(), [torch.randn(2, 4), torch.randn(3, 4)], tmp_path / "trace")
    assert [one.name for one in found] == ["inner", "inner#2", "inner#3", "inner#4"]
    assert [one.size[0] for one in found] == [2, 2, 3, 3]


def test_rows_end_the_run(tmp_path):
    """No more rows than asked for, whatever the batches; later batches are not drawn."""

    def batches() -> Any:
        yield {"input": torch.randn(3, 4)}
        yield {"input": torch.randn(3, 4)}
        pytest.fail("a batch too many was drawn")

    found = record(nn.Linear(4, 2), batches(), tmp_path / "trace", rows=5)
    assert [one.size[0] for one in found] == [3, 2]
    assert found.facts["rows"] == 5
    with pytest.raises(Usage, match="at least one row"):
        record(nn.Linear(4, 2), [], tmp_path / "none", rows=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["input", "weights"])
def test_numbers_that_are_not_finite_are_refused_with_the_layer(tmp_path, bad, where):
    """The layer, the operand, how many and the first place; nothing is written, no hook stays."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    x = torch.randn(2, 4)
    if where == "input":
        x[1, 2] = bad
    else:
        with torch.no_grad():
            model[1].weight[1, 0] = bad
    layer, at = ("0", r"\(1, 2\)") if where == "input" else ("1", r"\(1, 0\)")
    with pytest.raises(Refused, match=rf"^{layer}: 1 of \d+ numbers of its {where} .* first at {at}") as told:
        record(model, [x], tmp_path / "trace")
    assert told.value.code == "workload-not-finite"
    assert list(tmp_path.iterdir()) == []
    assert not any(part._forward_hooks for part in model.modules())


def test_numbers_beyond_bf16_are_refused_with_the_layer(tmp_path):
    """Finite in float32, infinite in bfloat16."""
    with pytest.raises(Refused, match="Linear: of its input 1 numbers are infinite"):
        record(nn.Linear(1, 1), [torch.full((1, 1), 3.4e38)], tmp_path / "trace", format="bf16")


def test_gradients_that_are_not_finite_are_refused_with_the_layer(tmp_path):
    """A loss that explodes."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    loss = lambda model, batch: (model(batch) * float("inf")).sum()  # noqa: E731
    with pytest.raises(Refused, match="^0: .* numbers of its gradient"):
        record(model, [torch.ones(1, 2)], tmp_path / "trace", train=True, loss=loss)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_recorded_is_told(tmp_path):
    """Formats, a loss that is missing, models without products; and modules that are passed over are named."""
    with pytest.raises(Usage, match="int8, bf16; got 'fp8'"):
        record(nn.Linear(1, 1), [torch.ones(1, 1)], tmp_path / "trace", format="fp8")
    with pytest.raises(Usage, match="gives no loss"):
        record(nn.Linear(1, 1), [torch.ones(1, 1)], tmp_path / "trace", train=True)
    with pytest.raises(Refused, match="no product of this ReLU was seen") as told:
        record(nn.ReLU(), [torch.ones(1, 1)], tmp_path / "trace")
    assert told.value.code == "workload-empty"
    assert list(tmp_path.iterdir()) == []
    model = nn.Sequential(nn.Linear(3, 4), nn.GRU(4, 4))
    found = record(model, [torch.ones(2, 3)], tmp_path / "trace")
    assert found.facts["left_out"] == [{"layer": "1", "why": "GRU is not recorded"}]


def test_one_layer_is_in_memory_at_a_time(tmp_path):
    """Each layer is on disk before the next one runs."""
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(5)])
    with Writer(tmp_path / "trace") as out, Recorder(model, out):
        counts = []
        for part in model:
            part.register_forward_pre_hook(
                lambda module, args: counts.append(len(list(tmp_path.rglob("layer-*.safetensors"))))
            )
        model(torch.ones(1, 4))
    assert counts == [0, 1, 2, 3, 4]


def test_a_model_comes_back_as_it_was(tmp_path):
    """Lifted: its answers, its seams and its plan."""
    model = sparsam.lift(tiny_models.build("bert"))
    batch = tiny_models.inputs("bert")
    with torch.no_grad():
        before = model(**batch).logits
    stack = stack_of(model)
    attend, plan = stack.attend, plan_of(model)
    record(model, [batch], tmp_path / "trace")
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, before)
    assert stack.attend is attend
    assert plan_of(model) is plan
    assert shapes_of(stack)[0].heads == 4
    assert torch.backends.mha.get_fastpath_enabled()


def test_gates_and_merged_tokens_are_a_bias_of_attention(tmp_path):
    """A bias by key is written out for each query and head."""
    from sparsam.attention.softmax import reference

    model = sparsam.lift(tiny_models.build("bert"))
    stack, kept = stack_of(model), []
    own = stack.attend
    bias = torch.randn(25)

    def biased(q: Any, k: Any, v: Any, lengths: Any, **more: Any) -> Any:
        kept.append(reference(q, k, v, lengths, scale=more["scale"], key_bias=bias)[0])
        return own(q, k, v, lengths, **more)

    stack.attend = biased
    out = Writer(tmp_path / "trace")
    with torch.no_grad(), out, Recorder(model, out, format="bf16") as seen:
        q = torch.randn(25, 4, 8)
        seen._last = "layer.query"
        seen._lifted_attention(q, q, q, (12, 7, 1, 5), None, None, {"scale": 0.3, "key_bias": bias})
    (one,) = Workload.load(tmp_path / "trace")
    wanted = reference(q, q, q, (12, 7, 1, 5), scale=0.3, key_bias=bias)[0]
    mixed = np.concatenate(
        [
            np.stack([one.probabilities(rows, h) @ one.v.real()[rows, h] for h in range(4)], 1)
            for rows in one.sequences()
        ]
    )
    assert one.name == "layer"
    assert near(mixed, wanted, 0.02)


def test_masks_that_are_neither_padding_nor_causal_become_a_bias(tmp_path):
    """A window around each token, and an additive bias by pairs."""

    class Windowed(nn.Module):
        def __init__(self, mask: torch.Tensor) -> None:
            super().__init__()
            self.mask, self.proj = mask, nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q = self.proj(x).view(2, 6, 2, 4).transpose(1, 2)
            self.out = F.scaled_dot_product_attention(q, q, q, attn_mask=self.mask, scale=0.7)
            return self.out

    near_by = (torch.arange(6)[:, None] - torch.arange(6)).abs() < 2
    added = torch.randn(1, 2, 6, 6)
    for number, mask in enumerate((near_by, added, added.masked_fill(~near_by, -torch.inf))):
        model = Windowed(mask)
        found = record(model, [torch.randn(2, 6, 8)], tmp_path / str(number), format="bf16")
        one = found[1]
        assert one.bias is not None
        for b, rows in enumerate(one.sequences()):
            for head in range(2):
                made = one.probabilities(rows, head) @ one.v.real()[rows, head]
                assert near(made, model.out[b, head], 0.02)


def test_the_page_s_code_runs(tmp_path, monkeypatch, capsys):
    """The Python of docs/hardware/traces.md, in order, in an empty folder."""
    import re
    from pathlib import Path

    page = Path(__file__).parents[2] / "docs" / "hardware" / "traces.md"
    monkeypatch.chdir(tmp_path)
    session: dict[str, object] = {"__name__": "page"}
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for block in blocks:
        exec(compile(block, str(page), "exec"), session)
    assert len(blocks) == 2
    assert "conv 0 " in capsys.readouterr().out
    assert (tmp_path / "gemm.csv").read_text().count("\n") == 3
    assert len(list((tmp_path / "problems").iterdir())) == 2
    assert (tmp_path / "trace.dram").read_text().startswith("0x0 READ 0\n")


def test_gradients_of_any_convolution_are_autograd_s(tmp_path, monkeypatch):
    """A hundred drawn kernels, strides, dilations, paddings and groups, crops and phases without taps among them."""
    draw = np.random.default_rng(1)
    torch.manual_seed(0)
    done = 0
    while done < 100:
        groups, per, each = (int(x) for x in draw.integers(1, 4, 3))
        kernel, stride, dilation = (tuple(map(int, draw.integers(1, 5, 2))) for _ in range(3))
        padding, size = tuple(map(int, draw.integers(0, 7, 2))), tuple(map(int, draw.integers(1, 13, 2)))
        reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        if any(n + 2 * p < r for n, p, r in zip(size, padding, reach, strict=True)):
            continue
        done += 1
        module = nn.Conv2d(
            groups * per, groups * each, kernel, stride, padding, dilation, groups=groups, bias=False
        )
        x = torch.randn(2, groups * per, *size, requires_grad=True)
        layers: list[Any] = []
        out = Writer(tmp_path / "none")
        monkeypatch.setattr(out, "add", layers.append)
        with Recorder(module, out, format="bf16"):
            y = module(x)
            (y * torch.randn_like(y)).sum().backward()
        parts = [one for one in layers if one.role == "grad_input"]
        found = folded(parts, "Conv2d", tuple(x.shape), stride)
        sums = np.concatenate([product(one) for one in layers if one.role == "grad_weight"])
        weights = sums.reshape(groups * each, *kernel, per).transpose(0, 3, 1, 2)
        for made, wanted in ((found, x.grad), (weights, module.weight.grad)):
            assert np.allclose(made, wanted.numpy(), atol=0.02 * float(wanted.abs().max()) + 1e-6), module
