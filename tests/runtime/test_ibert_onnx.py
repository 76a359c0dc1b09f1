"""The integer-only encoder as an ONNX graph: no float in it, and ONNX Runtime gives the reference's integers."""

from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from test_ibert_native import METHODS, PRUNED, made, sequences

from sparsam.quantization.ibert import i_sqrt
from sparsam.quantization.integer_only import IBert
from sparsam.runtime.ibert_onnx import _Graph, _root, floats_in, integer_graph

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
ort = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")


def session(model: Any) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("left", [None, PRUNED], ids=["whole", "pruned"])
@pytest.mark.parametrize(
    "method", [*METHODS.values(), IBert("table", 8, 16)], ids=["ours", "the paper's", "8 bits"]
)
@pytest.mark.parametrize("side", ["right", "left"])
def test_graph_gives_the_references_integers(method: IBert, left: Any, side: str) -> None:
    """Bit for bit wherever a token lives, padded on either side; the audit finds no float."""
    encoder = made(method, left)
    model = integer_graph(encoder)
    assert floats_in(model) == []
    batch = tiny_models.text((12, 7, 1, 30), side)
    living = batch["attention_mask"].bool()
    kinds = torch.randint(0, 2, living.shape, generator=torch.Generator().manual_seed(1))
    given = {name: x.numpy() for name, x in (batch | {"token_type_ids": kinds}).items()}
    (found,) = session(model).run(None, given)
    places = torch.cat([torch.arange(n) for n in living.sum(1).tolist()])
    want = encoder.run(batch["input_ids"][living], places, kinds[living], living.sum(1))
    assert found.dtype == np.int32
    assert torch.equal(torch.from_numpy(found)[living], want.int())


def test_audit_finds_a_float() -> None:
    """A constant of floats, and what is made of it."""
    model = integer_graph(made())
    helper = onnx.helper
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32([0.5]), "half"))
    model.graph.node.append(helper.make_node("Add", ["half", "half"], ["one"]))
    assert floats_in(model) == ["half", "one"]
    model = integer_graph(made())
    model.graph.node.append(helper.make_node("Cast", ["states"], ["floats"], to=onnx.TensorProto.FLOAT))
    assert floats_in(model) == ["floats", f"Cast to {onnx.TensorProto.FLOAT}"]


def test_root_of_the_graph_is_the_whole_one() -> None:
    """Squares and their neighbours up to 2^58: the reference's."""
    graph, helper = _Graph(), onnx.helper
    graph.nodes.append(helper.make_node("Identity", [_root(graph, "n")], ["root"]))
    info = [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["t"]) for name in ("n", "root")]
    made_graph = helper.make_graph(graph.nodes, "root", info[:1], info[1:], graph.held)
    model = helper.make_model(made_graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    k = torch.cat([torch.arange(1, 3000), torch.logspace(4, 8.7, 4000, dtype=torch.float64).long()])
    n = torch.cat([torch.zeros(1).long(), k * k - 1, k * k, k * k + 1, k])
    (found,) = session(model).run(None, {"n": n.numpy()})
    assert torch.equal(torch.from_numpy(found), i_sqrt(n))


def test_first_position_is_the_models() -> None:
    """A sequence's first token has the row that is named."""
    encoder, tokens = made(), sequences([5])
    model = integer_graph(encoder, 3)
    given = {"input_ids": tokens.ids, "attention_mask": torch.ones(5).long(), "token_type_ids": tokens.kinds}
    (found,) = session(model).run(None, {name: x[None].numpy() for name, x in given.items()})
    want = encoder.run(tokens.ids, tokens.positions + 3, tokens.kinds, tokens.lengths)
    assert torch.equal(torch.from_numpy(found[0]), want.int())
