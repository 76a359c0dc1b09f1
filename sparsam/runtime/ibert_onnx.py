"""An integer-only encoder as an ONNX graph in integers, for runtimes that have no kernel of ours; :func:`floats_in` audits it.

The graph takes a padded batch: ``input_ids`` and ``attention_mask`` (b, n), and ``token_type_ids`` where the model has types,
all int64. It gives ``states`` (b, n, d), int32: the last norm's integers, as of :meth:`IntegerEncoder.run`, bit for bit where a
token lives. Padding may stand anywhere; its states mean nothing. Products are ``MatMulInteger`` of signed bytes, everything
else is 32- or 64-bit integers; a shift to the right is a floor division. Needs the extra ``onnx``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.quantization.dyadic import Dyadic, limit
from sparsam.quantization.ibert import SHARE, SPREAD, UNIT, WIDEST, Norm
from sparsam.quantization.integer_only import SUM, IntegerEncoder, Layer, Product, Rows

OPSET = 18
NEWTON = 8
"""Steps of the square root below 2^58 from a start within a factor of 2 above it: 5 always sufficed; 3 to spare."""


class _Graph:
    """Nodes and constants as they are made."""

    def __init__(self) -> None:
        from onnx import helper, numpy_helper

        self.helper, self.numpy_helper = helper, numpy_helper
        self.nodes: list[Any] = []
        self.constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self.held: list[Any] = []

    def of(self, kind: str, *inputs: "str | int | NDArray[Any]", **attributes: Any) -> str:
        """One node's output; whole numbers and arrays among its inputs become constants (numbers of 64 bits)."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        names = [x if isinstance(x, str) else self.constant(np.asarray(x)) for x in inputs]
        self.nodes.append(self.helper.make_node(kind, names, [name], **attributes))
        return name

    def constant(self, array: NDArray[Any]) -> str:
        """The name of a constant; equal ones are one."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = f"constant_{len(self.constants)}"
            self.held.append(self.numpy_helper.from_array(np.ascontiguousarray(array), self.constants[key]))
        return self.constants[key]

    def cast(self, x: str, dtype: Any) -> str:
        return self.of("Cast", x, to=self.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def floor(self, x: str, by: "str | int") -> str:
        """Floor division of 64-bit numbers by something above 0."""
        return self.of("Div", self.of("Sub", x, self.of("Mod", x, by)), by)

    def shifted(self, x: str, bits: int) -> str:
        """Shifted to the right, rounded half up."""
        return self.floor(self.of("Add", x, 1 << (bits - 1)), 1 << bits)

    def rescaled(self, x: str, by: Dyadic) -> str:
        """64-bit numbers times a factor; channels are the last axis."""
        return self.shifted(self.of("Mul", x, by.m.numpy().astype(np.int64)), by.e)

    def narrow(self, x: str, bits: int) -> str:
        return self.of("Clip", x, -limit(bits), limit(bits))


def integer_graph(encoder: IntegerEncoder, first_position: int = 0) -> Any:
    """The graph, an ``onnx.ModelProto``.

    Args:
        encoder: the integers.
        first_position: the row of the position table that a sequence's first token has (RoBERTa's are not 0).

    Raises:
        Refused: ``extra-missing`` without onnx.
    """
    try:
        from onnx import TensorProto, checker
    except ImportError:
        raise Refused(
            "an ONNX graph needs the package onnx, which is not installed. Install it: pip install 'sparsam[onnx]'.",
            code="extra-missing",
        ) from None
    made = _Graph()
    mask = "attention_mask"
    places = made.of("Sub", made.of("CumSum", mask, 1), 1 - first_position)
    places = made.of("Max", places, 0)
    total = _rows(made, encoder.words, "input_ids")
    if encoder.kinds is not None:
        total = made.of("Add", total, _rows(made, encoder.kinds, "token_type_ids"))
    total = made.rescaled(made.narrow(total, SUM), encoder.sum_by)
    total = made.narrow(made.of("Add", total, _rows(made, encoder.positions, places)), WIDEST)
    residual, x = _normed(made, total, encoder.norm, encoder.out)
    living = made.of("Greater", made.of("Unsqueeze", mask, np.array([1, 2])), 0)  # (b, 1, 1, n)
    for layer in encoder.layers:
        residual, x = _layer(made, encoder, layer, residual, x, living)
    made.nodes.append(made.helper.make_node("Cast", [residual], ["states"], to=TensorProto.INT32))
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if encoder.kinds is not None else [])]
    inputs = [made.helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "n"]) for name in names]
    width = int(encoder.norm.g.shape[0])
    states = made.helper.make_tensor_value_info("states", TensorProto.INT32, ["b", "n", width])
    graph = made.helper.make_graph(made.nodes, "integer_only_encoder", inputs, [states], made.held)
    model = made.helper.make_model(graph, opset_imports=[made.helper.make_opsetid("", OPSET)], ir_version=10)
    checker.check_model(model, full_check=True)
    return model


def floats_in(model: Any) -> list[str]:
    """Every tensor of a graph that is no integer or truth value: constants, inputs, outputs, and all between by inference.

    Raises:
        Refused: ``graph-audit`` where a tensor's type cannot be inferred.
    """
    from onnx import TensorProto, shape_inference

    whole = {
        TensorProto.INT8,
        TensorProto.INT16,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.BOOL,
        TensorProto.UINT8,
    }
    graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {one.name: one.data_type for one in graph.initializer}
    types |= {
        one.name: one.type.tensor_type.elem_type for one in [*graph.input, *graph.output, *graph.value_info]
    }
    unknown = [name for node in graph.node for name in node.output if name not in types]
    if unknown:
        raise Refused(
            f"the type of {unknown[0]} cannot be inferred, so the graph is not known.", code="graph-audit"
        )
    kinds = [
        f"{node.op_type} to {a.i}"
        for node in graph.node
        if node.op_type == "Cast"
        for a in node.attribute
        if a.i not in whole
    ]
    return [*(name for name, kind in types.items() if kind not in whole), *kinds]


def _rows(made: _Graph, rows: Rows, ids: str) -> str:
    """Rows of a table at the scale of the sum they go into."""
    found = made.cast(made.of("Gather", rows.weight.numpy(), ids, axis=0), np.int64)
    by = made.of(
        "Unsqueeze", made.of("Gather", rows.by.m.numpy().astype(np.int64), ids, axis=0), np.array([2])
    )
    return made.shifted(made.of("Mul", found, by), rows.by.e)


def _normed(made: _Graph, x: str, norm: Norm, out: Dyadic) -> tuple[str, str]:
    """A norm's output for the residual, 64 bits, and for the products, 8."""
    d, last = int(norm.g.shape[0]), np.array([-1])
    total = made.of("ReduceSum", x, last)
    y = made.of("Sub", x, made.floor(made.of("Add", made.of("Mul", total, 2), d), 2 * d))
    squares = made.of("Add", made.of("ReduceSum", made.of("Mul", y, y), last), norm.eps)
    deviation = made.of("Max", _root(made, squares), 1)
    share = made.of("Div", 1 << SPREAD, deviation)
    t = made.shifted(made.of("Mul", y, share), SPREAD - UNIT)
    by = made.of("Add", made.of("Mul", t, norm.g.numpy().astype(np.int64)), norm.b.numpy())
    residual = made.narrow(made.shifted(by, norm.e), norm.bits)
    return residual, made.cast(made.narrow(made.rescaled(residual, out), 8), np.int8)


def _root(made: _Graph, n: str) -> str:
    """The whole square root: Newton's steps from a power of 2 above it."""
    x, step = made.of("Add", made.of("Mul", n, 0), 1), n
    for bits in (32, 16, 8, 4, 2):  # a half of the bits, rounded up
        wide = made.of("GreaterOrEqual", step, 1 << bits)
        x = made.of("Where", wide, made.of("Mul", x, 1 << (bits // 2)), x)
        step = made.of("Where", wide, made.of("Div", step, 1 << bits), step)
    x = made.of("Mul", x, 2)
    for _ in range(NEWTON):
        x = made.of("Min", x, made.of("Div", made.of("Add", x, made.of("Div", n, made.of("Max", x, 1))), 2))
    return x


def _sums(made: _Graph, product: Product, x: str) -> str:
    """A product's sums with its bias, 64 bits."""
    sums = made.of("MatMulInteger", x, np.ascontiguousarray(product.weight.numpy().T))
    return made.cast(made.of("Add", sums, product.bias.numpy()), np.int64)


def _through(made: _Graph, product: Product, x: str, bits: int = 8) -> str:
    """A product at its output's scale, 64 bits."""
    return made.narrow(made.rescaled(_sums(made, product, x), product.by), bits)


def _heads(made: _Graph, x: str, width: int, order: Sequence[int]) -> str:
    """Numbers (b, n, a) as heads, 32 bits."""
    apart = made.of("Reshape", made.cast(x, np.int32), np.array([0, 0, -1, width]))
    return made.of("Transpose", apart, perm=list(order))


def _layer(
    made: _Graph, encoder: IntegerEncoder, layer: Layer, residual: str, x: str, living: str
) -> tuple[str, str]:
    context = _attended(made, encoder, layer, x, living) if len(layer.q.weight) else None
    total = made.rescaled(residual, layer.o_residual)
    total = made.of("Add", total, _branch(made, layer.o, context))
    residual, x = _normed(made, made.narrow(total, WIDEST), layer.attention_norm, layer.attention_out)
    active = _activated(made, layer, x) if len(layer.up.weight) else None
    total = made.of("Add", made.rescaled(residual, layer.ffn_residual), _branch(made, layer.down, active))
    return _normed(made, made.narrow(total, WIDEST), layer.ffn_norm, layer.ffn_out)


def _branch(made: _Graph, product: Product, x: str | None) -> str:
    """A product's sums at the scale of a norm's input; its bias alone where nothing is left to multiply with."""
    if x is None:
        return made.rescaled(made.constant(product.bias.numpy().astype(np.int64)), product.by)
    return made.rescaled(_sums(made, product, x), product.by)


def _activated(made: _Graph, layer: Layer, x: str) -> str:
    if layer.entries is not None:
        return made.of(
            "Gather", layer.entries.numpy(), made.of("Add", _through(made, layer.up, x), 128), axis=0
        )
    gelu, out = layer.gelu, layer.gelu_out
    assert gelu is not None and out is not None
    q = _through(made, layer.up, x, 16)
    apart = made.of("Sub", made.of("Min", made.of("Abs", q), gelu.b), gelu.b)
    y = made.floor(made.of("Sub", gelu.c, made.of("Mul", apart, apart)), 1 << gelu.shift)
    wide = made.of("Mul", q, made.of("Add", made.of("Mul", made.of("Sign", q), y), gelu.one))
    return made.cast(made.narrow(made.rescaled(wide, out), 8), np.int8)


def _attended(made: _Graph, encoder: IntegerEncoder, layer: Layer, x: str, living: str) -> str:
    exp, bits, width = encoder.exp, encoder.method.probabilities, layer.head_width
    q = _heads(made, _through(made, layer.q, x), width, (0, 2, 1, 3))
    k = _heads(made, _through(made, layer.k, x), width, (0, 2, 3, 1))
    v = _heads(made, _through(made, layer.v, x), width, (0, 2, 1, 3))
    sums = made.cast(made.of("MatMul", q, k), np.int64)  # (b, h, n, n)
    sums = made.of("Where", living, sums, -(1 << 31))
    apart = made.of("Sub", sums, made.of("ReduceMax", sums, np.array([-1])))
    logits = made.of("Max", made.rescaled(apart, layer.logits), exp.lowest)
    z = made.of("Div", made.of("Neg", logits), exp.ln2)
    r = made.of("Add", logits, made.of("Mul", z, exp.ln2))
    power = made.of("Add", made.of("Mul", made.of("Add", r, exp.b), r), exp.c)
    octaves = made.of("Gather", 2 ** np.arange(-exp.lowest // exp.ln2 + 1, dtype=np.int64), z, axis=0)
    power = made.of("Where", living, made.of("Div", power, octaves), 0)
    total = made.of("Max", made.of("ReduceSum", power, np.array([-1])), 1)
    p = made.shifted(made.of("Mul", power, made.of("Div", 1 << SHARE, total)), SHARE - bits)
    p = made.cast(made.of("Min", p, (1 << bits) - 1), np.int32)
    mixed = made.of("Transpose", made.of("MatMul", p, v), perm=[0, 2, 1, 3])
    mixed = made.cast(made.of("Reshape", mixed, np.array([0, 0, -1])), np.int64)
    return made.cast(made.narrow(made.rescaled(mixed, layer.context), 8), np.int8)
