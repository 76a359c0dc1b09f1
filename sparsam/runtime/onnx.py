"""A classifier as an ONNX graph, for ONNX Runtime: any batch, any length, token removal inside.

Products whose plan has number formats are computed in those formats:

- Weights stand in the file as 8-bit integers, shifted by 128 to be unsigned. On processors without VNNI the kernels for signed
  weights add pairs of products in 16 bits and clip them, which was seen to make answers wrong.
- Inputs are quantised token by token in the graph, or with the plan's calibrated scale (``tensor``), and go through
  ``MatMulInteger``. Between ``DequantizeLinear`` pairs, the other way to write it, ONNX Runtime multiplied in floating point.

Figures for both are in docs/export.md.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sparsam.errors import Refused, Usage
from sparsam.models.integers import integers_of, scales_of
from sparsam.models.lift import base_of
from sparsam.runtime.portable import Portable, Product, portable

FILE = "model.onnx"
OPSET = 20
"""The first with Gelu; ONNX Runtime 1.17 and OpenVINO 2024.0 read it."""

MOST_BYTES = 1_900_000_000
"""Of weights inside the file: a protobuf ends at 2 GB. Larger ones stand beside it."""

Target = Literal["onnxruntime", "openvino"]


def check_installed(extra: str, *modules: str) -> None:
    """Refuse where a package is missing, with the line that installs it.

    Raises:
        Usage: ``extra-missing``.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise Usage(
            f"this needs {' and '.join(missing)}: pip install 'sparsam[{extra}]'", code="extra-missing"
        )


def write_onnx(model: Any, file: Path, inputs: tuple[str, ...]) -> None:
    """Write a classifier, dense or with a plan, as an ONNX file for ONNX Runtime.

    Args:
        model: a transformers model.
        file: where to; weights beyond 1.9 GB stand beside it, in the file of that name with ``_data``.
        inputs: see :func:`sparsam.runtime.portable.portable`.

    Raises:
        Usage: ``extra-missing``.
        Refused: ``export-head``, ``export-rule``, ``export-failed`` and those of lifting.
    """
    check_installed("onnx", "onnx", "onnxscript", "onnxruntime")
    save(graph(model, inputs, "onnxruntime"), file)


def save(made: Any, file: Path) -> None:
    """Write a graph; weights inside the file, unless they are too many."""
    import onnx_ir

    size = sum(value.const_value.nbytes for value in made.graph.initializers.values())
    onnx_ir.save(made, file, external_data=f"{file.name}_data" if size > MOST_BYTES else None)


def sample(model: Any, inputs: tuple[str, ...], lengths: tuple[int, ...] = (5, 9, 2)) -> tuple[Tensor, ...]:
    """Inputs of the kinds that are named, padded: random pixels, or random words in sequences of these lengths."""
    draw = torch.Generator().manual_seed(0)
    config = model.config
    if inputs == ("pixel_values",):
        sides = base_of(model).embeddings.patch_embeddings.image_size
        return (torch.randn(len(lengths), config.num_channels, *sides, generator=draw),)
    n = torch.tensor(lengths)
    mask = (torch.arange(int(n.max()))[None, :] < n[:, None]).long()
    ids = torch.randint(0, config.vocab_size, mask.shape, generator=draw)
    pad = config.pad_token_id or 0
    ids = torch.where(ids == pad, (pad + 1) % config.vocab_size, ids)
    given = {
        "input_ids": torch.where(mask.bool(), ids, pad),
        "attention_mask": mask,
        "token_type_ids": 0 * mask,
    }
    return tuple(given[name] for name in inputs)


def graph(model: Any, inputs: tuple[str, ...], target: Target) -> Any:
    """The graph as ``onnx_ir`` holds it."""
    own = portable(model, inputs)
    given = sample(model, inputs)
    any_size = torch.export.Dim.DYNAMIC
    shapes = tuple({0: any_size, 1: any_size} if x.dim() == 2 else {0: any_size} for x in given)
    try:
        with _hushed(), torch.no_grad():
            program = torch.onnx.export(
                own, given, dynamo=True, opset_version=OPSET, dynamic_shapes=(shapes,), input_names=list(inputs),
                output_names=["logits"], verbose=False,
            )  # fmt: skip
    except torch.onnx.errors.OnnxExporterError as error:
        said = str(error.__cause__ or error).strip().splitlines()
        raise Refused(
            f"torch cannot write this {type(model).__name__} as a graph: {said[0][:200] if said else type(error).__name__}. "
            "sparsam is tested with the releases in constraints.txt.",
            code="export-failed",
        ) from error
    assert program is not None
    made: Any = program.model
    _without_traces(made)
    _in_integers(made, own, target)
    _tidy(made)
    made.producer_name, made.producer_version = "sparsam", None
    return made


@contextmanager
def _hushed() -> Iterator[None]:
    """The exporter tells of operators that are not installed, and of attributes whose type it guessed."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _without_traces(made: Any) -> None:
    """Drop what the exporter notes of this machine: stack traces, with the paths of files."""
    made.metadata_props.clear()
    made.graph.metadata_props.clear()
    for value in [*made.graph.inputs, *made.graph.outputs, *made.graph.initializers.values()]:
        value.metadata_props.clear()
    for node in made.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()


def _tidy(made: Any) -> None:
    """Drop weights that nothing reads any more."""
    for name, value in list(made.graph.initializers.items()):
        if not value.uses():
            del made.graph.initializers[name]


class _Writer:
    """Puts nodes in front of one node, and that node's output to another use."""

    def __init__(self, made: Any, at: Any) -> None:
        import onnx_ir

        self.ir, self.graph, self.at, self.made = onnx_ir, made.graph, at, 0
        self.name = at.outputs[0].name

    def constant(self, array: Any) -> Any:
        """A weight of the graph."""
        self.made += 1
        name = f"{self.name}_constant_{self.made}"
        held: Any = self.ir.tensor(np.array(array, order="C"), name=name)
        value: Any = self.ir.Value(name=name, const_value=held, shape=held.shape)
        value.dtype = held.dtype
        self.graph.initializers[name] = value
        return value

    def __call__(self, kind: str, *inputs: Any, **attributes: Any) -> Any:
        """A node with one output."""
        self.made += 1
        node = self.ir.node(kind, list(inputs), attributes or None)
        node.name = f"{self.name}_{kind}_{self.made}"
        node.outputs[0].name = f"{node.name}_output"
        self.graph.insert_before(self.at, node)
        return node.outputs[0]

    def replace(self, value: Any) -> None:
        """Whoever read the node's output reads ``value``; the node goes."""
        old = self.at.outputs[0]
        self.ir.convenience.replace_all_uses_with(old, value)
        self.graph.remove(self.at, safe=True)


def _in_integers(made: Any, own: Portable, target: Target) -> None:
    """Compute the products that have formats, and look up the embeddings that have scales, in integers."""
    for name, module in own.named_modules():
        held = made.graph.initializers.get(f"{name}.weight")
        if held is None:
            continue
        for node in [use.node for use in held.uses()]:
            if isinstance(module, Product) and module.format is not None:
                assert node.op_type == "MatMul", node
                (_to_openvino if target == "openvino" else _to_onnxruntime)(_Writer(made, node), module)
            elif isinstance(module, nn.Embedding) and scales_of(module) is not None:
                assert node.op_type == "Gather", node
                _look_up(_Writer(made, node), module)


def _integers(product: Product) -> tuple[Any, Any]:
    assert product.scales is not None
    scales = product.scales.numpy()
    return np.rint(product.weight.detach().numpy() / scales).astype(np.int8), scales


def _to_onnxruntime(write: _Writer, product: Product) -> None:
    """s_x s_w (q - z) W, in exact sums of 8-bit products."""
    import onnx_ir

    form, (weights, scales) = product.format, _integers(product)
    assert form is not None
    x = write.at.inputs[0]
    unsigned = write.constant((weights.astype(np.int16) + 128).astype(np.uint8))
    middle = write.constant(np.array(128, np.uint8))
    if form.input == "tensor":
        assert form.scale is not None and form.zero is not None
        zero = write.constant(np.array(form.zero, np.uint8))
        q = write("QuantizeLinear", x, write.constant(np.array(form.scale, np.float32)), zero)
        sums = write("MatMulInteger", q, unsigned, zero, middle)
        whole = write("Cast", sums, to=onnx_ir.DataType.FLOAT)
        write.replace(write("Mul", whole, write.constant(np.float32(form.scale) * scales)))
        return
    nought, top = write.constant(np.float32(0)), write.constant(np.float32(255))
    along = write.constant(np.array([1], np.int64))
    low = write("Min", write("ReduceMin", x, along, keepdims=1), nought)
    high = write("Max", write("ReduceMax", x, along, keepdims=1), nought)
    span = write("Sub", high, low)
    scale = write(
        "Where", write("Equal", span, nought), write.constant(np.float32(1)), write("Div", span, top)
    )
    zeros = write("Clip", write("Round", write("Neg", write("Div", low, scale))), nought, top)
    shifted = write("Add", write("Round", write("Div", x, scale)), zeros)
    q = write("Cast", write("Clip", shifted, nought, top), to=onnx_ir.DataType.UINT8)
    sums = write("MatMulInteger", q, unsigned, write.constant(np.array(0, np.uint8)), middle)
    scaled = write(
        "Mul", write("Mul", write("Cast", sums, to=onnx_ir.DataType.FLOAT), scale), write.constant(scales)
    )
    columns = (weights.astype(np.int64).sum(0) * scales.astype(np.float64)).astype(np.float32)[None]
    write.replace(write("Sub", scaled, write("MatMul", write("Mul", zeros, scale), write.constant(columns))))


def _to_openvino(write: _Writer, product: Product) -> None:
    """Weights behind DequantizeLinear; inputs too where their scale is fixed: OpenVINO multiplies integers then."""
    form, (weights, scales) = product.format, _integers(product)
    assert form is not None
    x = write.at.inputs[0]
    if form.input == "tensor":
        scale = write.constant(np.array(form.scale, np.float32))
        zero = write.constant(np.array(form.zero, np.uint8))
        x = write("DequantizeLinear", write("QuantizeLinear", x, scale, zero), scale, zero)
    held = write(
        "DequantizeLinear",
        write.constant(weights),
        write.constant(scales),
        write.constant(np.zeros(len(scales), np.int8)),
        axis=1,
    )
    write.replace(write("MatMul", x, held))


def _look_up(write: _Writer, table: nn.Embedding) -> None:
    """Rows of integers, each with its scale."""
    import onnx_ir

    scales = scales_of(table)
    assert scales is not None
    ids = write.at.inputs[1]
    rows = write("Gather", write.constant(integers_of(table).numpy()), ids, axis=0)
    each = write("Gather", write.constant(scales.numpy()[:, None]), ids, axis=0)
    write.replace(write("Mul", write("Cast", rows, to=onnx_ir.DataType.FLOAT), each))


def open_onnx(file: str | os.PathLike[str], threads: int) -> Any:
    """A session on so many threads that tells nobody of it."""
    from sparsam.telemetry import without_telemetry

    without_telemetry()
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(os.fspath(file), options, providers=["CPUExecutionProvider"])
