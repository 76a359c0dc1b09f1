"""Exported graphs in ONNX Runtime and OpenVINO: logits, tokens kept, rows left for later products, integers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparsam.errors import Refused, Usage
from sparsam.models import lift, stack_of
from sparsam.models.integers import put
from sparsam.models.lift import layers_of
from sparsam.plan import PRODUCTS, Format, LayerPlan, Plan, TokenPlan
from sparsam.runtime import onnx as exporter
from sparsam.runtime.onnx import check_installed, open_onnx, write_onnx
from sparsam.runtime.openvino import FILE, open_openvino, write_openvino
from sparsam.tokens.ltp import ONLY_PROTECTED, token_plan

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
onnx: Any = pytest.importorskip("onnx")

LTP = token_plan((0.9, 1.0, ONLY_PROTECTED), relative_to="others")
BATCHES = ((12, 7, 1, 5), (3,), (30, 2), (9,) * 6)


def numpy_of(batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    """A batch as runtimes take it."""
    return {name: x.numpy() for name, x in batch.items()}


def check(model: Any, name: str, tiny: Any, folder: Path, bound: float = 1e-4) -> Path:
    """Both runtimes give the lifted model's logits for batches of any size and length."""
    names = tuple(tiny.inputs(name))
    write_onnx(model, folder / "model.onnx", names)
    session = open_onnx(folder / "model.onnx", 1)
    sessions = [lambda given: session.run(["logits"], given)[0]]
    if exporter.find_spec("openvino") is not None:
        write_openvino(model, folder / FILE, names)
        request = open_openvino(folder / FILE, 1)
        sessions.append(lambda given: next(iter(request.infer(given).values())))
    for lengths in BATCHES:
        batch = tiny.inputs(name, lengths)
        with torch.no_grad():
            wanted = model(**batch).logits.numpy()
        for serve in sessions:
            np.testing.assert_allclose(serve(numpy_of(batch)), wanted, atol=bound, rtol=0)
    return folder / "model.onnx"


def watched(file: Path, kinds: tuple[str, ...]) -> tuple[Any, list[str]]:
    """A session that also gives the outputs of all nodes of some kinds, with their names in order."""
    whole = onnx.load(str(file))
    names = [node.output[0] for node in whole.graph.node if node.op_type in kinds]
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return ort.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"]), names


def kept_in(session: Any, names: list[str], given: dict[str, Any]) -> list[Any]:
    """Tokens that live from the start, and after each layer that removes some: places in the padded batch."""
    rows, found = None, []
    for chosen in session.run(names, given):
        rows = chosen[0] if rows is None else rows[chosen[0]]
        found.append(rows)
    return found


def kept_by(model: Any, batch: dict[str, torch.Tensor]) -> list[Any]:
    """The same of the lifted model, after every layer."""
    stack = stack_of(model)
    stack.states = []
    try:
        with torch.no_grad():
            model(**batch)
        return [state.rows.numpy() for state in stack.states]
    finally:
        stack.states = None


def test_tokens_leave_inside_the_graph(tiny: Any, tmp_path: Path) -> None:
    """Logits to 1e-4; the keep sets are the model's own; later products have that many rows; nothing of this machine in it."""
    model = lift(tiny.build("bert"), Plan("bert", (LayerPlan(),) * 3, LTP))
    file = check(model, "bert", tiny, tmp_path)
    assert str(Path(exporter.__file__).parent).encode() not in file.read_bytes()
    batch = tiny.inputs("bert", (12, 7, 1, 5))
    wanted = kept_by(model, batch)
    session, names = watched(file, ("NonZero",))
    found = kept_in(session, names, numpy_of(batch))
    assert len(found) == 3 and len(found[0]) == 25
    for own, theirs in zip(found[1:], wanted[:2], strict=True):
        np.testing.assert_array_equal(own, theirs)
    assert len(found[2]) < len(found[1]) < 25
    session, names = watched(file, ("MatMul", "Gemm"))
    outputs = session.run(names, numpy_of(batch))
    rows = [x.shape[0] for x in outputs if x.ndim == 2 and x.shape[1] in (96, 64, 32, 44)]
    t, t1, t2 = (len(part) for part in found)
    # qkv, o | up, down of those kept, qkv, o | up, down, keys and values | all else for the class token: q, o, up, down, pooler
    assert sorted(rows) == sorted([t, t, t1, t1, t1, t1, t2, t2, t2, 4, 4, 4, 4, 4])
    # attention's rectangle is as wide as the longest sequence then; the last layer's has one row, the class token's
    longest = {int(np.bincount(part // 12).max()) for part in found[:2]}
    assert {x.shape[2] for x in outputs if x.ndim == 4} - {1} == longest


# Their layers are like those of families that other tests of this file export.
ALIKE = ("roberta", "xlm-roberta", "distilbert", "electra", "deit")


@pytest.mark.slow  # an export takes half a minute where the machine is busy
@pytest.mark.parametrize(
    "name", ["mpnet", "vit", *(pytest.param(name, marks=pytest.mark.long) for name in ALIKE)]
)
def test_every_family_is_exported(tiny: Any, name: str, tmp_path: Path) -> None:
    """With tokens removed, in both runtimes."""
    check(lift(tiny.build(name), Plan(name, (LayerPlan(),) * 3, LTP)), name, tiny, tmp_path)


@pytest.mark.slow  # as above
@pytest.mark.parametrize("name", ["bert", "vit"])
def test_shares_and_cut_layers(tiny: Any, name: str, tmp_path: Path) -> None:
    """Top-k, and layers with other numbers of heads and filters, down to none."""
    cut = (
        LayerPlan(heads=(0, 2), filters=tuple(range(11))),
        LayerPlan(heads=(), filters=()),
        LayerPlan(heads=(3,)),
    )
    plan = Plan(name, cut, TokenPlan("top-k", (0.8, 0.5, 0.3)))
    small, _ = tiny.sever(tiny.build(name), name, plan)
    check(lift(small, plan), name, tiny, tmp_path)


def on_grid(model: Any, form: Format, embeddings: bool = True) -> Any:
    """A BERT whose products and words are integers, lifted with such a plan."""
    modules = [
        m for layer in layers_of(model).children() for m in layer.modules() if isinstance(m, torch.nn.Linear)
    ]
    for module in [*modules, *([model.bert.embeddings.word_embeddings] if embeddings else [])]:
        weight = module.weight.detach()
        scales = weight.abs().amax(1) / (2 ** (form.bits - 1) - 1)
        put(module, (weight / scales[:, None]).round().to(torch.int8), scales)
    layers = (LayerPlan(formats=dict.fromkeys(PRODUCTS, form)),) * 3
    return lift(model, Plan("bert", layers, LTP, embeddings=8 if embeddings else None))


def simulated(form: Format) -> Any:
    """The ``linear`` seam as the plan's format has it, from its definition."""

    def linear(module: Any, x: torch.Tensor) -> torch.Tensor:
        low, high = x.amin(1, keepdim=True).clamp(max=0), x.amax(1, keepdim=True).clamp(min=0)
        s = torch.where(high == low, 1.0, (high - low) / 255)
        z = (-low / s).round().clamp(0, 255)
        if form.input == "tensor":
            s, z = torch.tensor(form.scale), torch.tensor(float(form.zero or 0))
        q = ((x / s).round() + z).clamp(0, 255)
        scales = module.weight_scale
        sums = (q - z).double() @ (module.weight / scales[:, None]).round().double().T
        return (s * scales * sums.float()) + module.bias

    return linear


@pytest.mark.parametrize("form", [Format(), Format(7, "tensor", 0.06, 120)], ids=["token", "tensor"])
def test_products_are_in_integers(tiny: Any, tmp_path: Path, form: Format) -> None:
    """The graph's numbers are the plan's formats, not only near them; weights are bytes in the file."""
    whole = on_grid(tiny.build("bert"), form)
    stack_of(whole).linear = simulated(form)
    batch = tiny.inputs("bert", (12, 7, 1, 5))
    with torch.no_grad():
        wanted = whole(**batch).logits.numpy()
    file = tmp_path / "model.onnx"
    write_onnx(whole, file, tuple(batch))
    found = open_onnx(file, 1).run(["logits"], numpy_of(batch))[0]
    np.testing.assert_allclose(found, wanted, atol=0.02 * np.abs(wanted).max())
    held = onnx.load(str(file)).graph
    assert not [node for node in held.node if node.op_type == "MatMul" and node.input[1].endswith(".weight")]
    assert (
        sum(node.op_type == "MatMulInteger" for node in held.node) == 3 * 4 + 1
    )  # the last layer's q by itself
    floats = [x for x in held.initializer if x.data_type == onnx.TensorProto.FLOAT and len(x.dims) == 2]
    assert all(x.dims[0] in (1, 2, 3, 32, 60, 514) for x in floats)  # sums of columns, heads and positions
    kept_as_bytes = {
        tuple(x.dims) for x in held.initializer if x.data_type == onnx.TensorProto.UINT8 and len(x.dims)
    }
    assert {(32, 96), (32, 32), (32, 44), (44, 32), (32, 64)} == kept_as_bytes


@pytest.mark.slow  # as above
def test_integers_in_openvino(tiny: Any, tmp_path: Path) -> None:
    """Token formats are products of floats with weights of one byte there, which OpenVINO may round on its own.

    Where a processor has VNNI it rounds what they read in groups of 32, finer than the format's grid a token.
    """
    openvino = pytest.importorskip("openvino")
    model = on_grid(tiny.build("bert"), Format())
    batch = tiny.inputs("bert", (12, 7, 1, 5))
    plain = tiny.build("bert")  # the same weights, which nobody calls integers
    weights = {name: x for name, x in model.state_dict().items() if not name.endswith("weight_scale")}
    plain.load_state_dict(weights)
    plan = model.sparsam_plan
    floats = tuple(replace(left, formats={}) for left in plan.layers)
    plan = replace(plan, layers=floats, embeddings=None)
    with torch.no_grad():
        wanted = lift(plain, plan)(**batch).logits.numpy()
    write_openvino(model, tmp_path / FILE, tuple(batch))
    found = next(iter(open_openvino(tmp_path / FILE, 1).infer(numpy_of(batch)).values()))
    np.testing.assert_allclose(found, wanted, atol=0.02 * np.abs(wanted).max())
    settings = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    core: Any = openvino.Core()
    request = core.compile_model(core.read_model(tmp_path / FILE), "CPU", settings).create_infer_request()
    exact = next(iter(request.infer(numpy_of(batch)).values()))
    np.testing.assert_allclose(exact, wanted, atol=1e-4)


def test_a_missing_extra_is_named() -> None:
    """With the line that installs it."""
    with pytest.raises(Usage, match=r"this needs no_such_module: pip install 'sparsam\[onnx\]'") as said:
        check_installed("onnx", "numpy", "no_such_module")
    assert said.value.code == "extra-missing"


def test_what_torch_cannot_export_is_said(tiny: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its error is told in a line, with the place of the tested versions; no file is left."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise torch.onnx.errors.OnnxExporterError("no such operator\nand more")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(
        Refused, match=r"cannot write this BertForSequenceClassification as a graph: no such operator\. "
    ) as said:
        write_onnx(tiny.build("bert"), tmp_path / "model.onnx", ("input_ids", "attention_mask"))
    assert said.value.code == "export-failed" and not list(tmp_path.iterdir())
