"""Workloads: products equal torch's, numbers are rounded as torch rounds them, and a trace on disk is whole or refused."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file

from sparsam.errors import InputOutput, Refused, Usage
from sparsam.workload import (
    INDEX,
    Attention,
    Conv,
    Gemm,
    Tensor,
    Workload,
    Writer,
    bf16_bits,
    from_bf16,
    rounded,
)

DRAW = np.random.default_rng(20261129)


def ints(*shape: int, least: int = -127, most: int = 127, density: float = 0.6) -> Tensor:
    """Random int8, some of them zero."""
    values = DRAW.integers(least, most + 1, shape) * (DRAW.random(shape) < density)
    return Tensor(values.astype(np.int8), "int8", 0.25)


def halves(*shape: int) -> Tensor:
    """Random bfloat16."""
    return Tensor(bf16_bits(DRAW.standard_normal(shape).astype(np.float32)), "bf16")


def example() -> Workload:
    """One layer of each kind, with and without what is optional."""
    return Workload(
        [
            Gemm("dense", ints(5, 12), rounded(DRAW.standard_normal((7, 12)), per_row=True)),
            Gemm("dense", ints(5, 7), ints(12, 7), "grad_input"),
            Conv("conv", halves(2, 4, 6, 5), halves(6, 2, 3, 2), (2, 1), (1, 0), (1, 2), 2),
            Attention("plain", ints(6, 2, 3), ints(6, 2, 3), ints(6, 2, 4), np.array([2, 4]), 0.5),
            Attention(
                "all", halves(6, 2, 3), halves(6, 2, 3), halves(6, 2, 3), np.array([5, 1]), 0.125,
                tokens=np.array([0, 2, 3, 7, 8, 0]), heads=(1, 3), causal=True, bias=np.zeros(2 * 26, np.float32),
            ),
        ],
        {"model": "none", "rows": 2},
    )  # fmt: skip


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two operands are equal in all they hold."""
    return (
        one.format == other.format
        and np.array_equal(one.values, other.values)
        and np.array_equal(np.asarray(one.scale), np.asarray(other.scale))
    )


# numbers


def test_bf16_is_rounded_as_torch_rounds_it():
    """Every exponent, ties to even, subnormals, both zeros, infinities, and a million random bit patterns."""
    bits = DRAW.integers(0, 1 << 32, 1_000_000, dtype=np.uint32)
    ties = (DRAW.integers(0, 1 << 16, 10_000, dtype=np.uint32) << 16) | 0x8000
    edges = np.array([0, 1 << 31, 1, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x00800000, 0x007FFFFF], np.uint32)
    x = np.concatenate([bits, ties, edges]).view(np.float32)
    x = x[~np.isnan(x)]
    wanted = torch.from_numpy(x).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(bf16_bits(x), wanted)
    assert np.array_equal(from_bf16(wanted).view(np.uint32), (wanted.astype(np.uint32) << 16))


@pytest.mark.parametrize("pattern", [0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFF80FFFF, 0x7FC00000])
def test_no_nan_becomes_a_number_in_bf16(pattern):
    """Whatever its payload: a carry out of the fraction would turn some into zeros, and cutting it off into infinity."""
    found = from_bf16(bf16_bits(np.array([pattern], np.uint32).view(np.float32)))
    assert np.isnan(found).all()


def test_bits_keep_the_shape_of_what_is_rounded():
    """Scalars, empty arrays and views with holes too."""
    x = DRAW.standard_normal((4, 6)).astype(np.float32)
    assert np.array_equal(bf16_bits(x.T[::2]), bf16_bits(x).T[::2])
    assert bf16_bits(np.float32(1.5)).shape == ()
    assert bf16_bits(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("bits", [2, 4, 8, 12, 16])
@pytest.mark.parametrize("per_row", [False, True])
def test_rounding_is_within_half_a_step(bits, per_row):
    """And no number is beyond the grid, which is symmetric."""
    x = DRAW.standard_normal((9, 31)).astype(np.float32) * np.float32(3.7)
    x[4] = 0
    found = rounded(x, bits, per_row=per_row)
    scale = np.asarray(found.scale).reshape(-1, 1)
    assert np.abs(found.real() - x).max() <= 0.5001 * scale.max()
    assert (np.abs(found.real() - x) <= 0.5001 * scale).all()
    assert np.abs(found.values.astype(int)).max() == (1 << (bits - 1)) - 1
    assert found.bits == (8 if bits <= 8 else 16)
    assert found.density == pytest.approx(np.mean(found.values != 0))


def test_rounding_takes_what_is_empty_or_tiny():
    """No rows, no columns, all zeros, subnormals and the largest float32."""
    for shape in ((0, 3), (3, 0), (0,)):
        assert rounded(np.zeros(shape), per_row=True).shape == shape
    assert rounded(np.zeros((2, 2))).density == 0
    assert rounded(np.full((1, 2), 1e-42, np.float32)).values.max() <= 1
    assert rounded(np.array([np.finfo(np.float32).max])).values.tolist() == [127]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused_with_their_place(bad):
    """In rounding, and as the bits of bfloat16."""
    x = np.zeros((2, 3), np.float32)
    x[1, 2] = bad
    with pytest.raises(Refused, match=r"first at \(1, 2\)") as told:
        rounded(x)
    assert told.value.code == "workload-not-finite"
    with pytest.raises(Refused, match=r"1 numbers are infinite or NaN, the first at \(1, 2\)"):
        Tensor(bf16_bits(x), "bf16")


def test_integers_beyond_a_grid_are_refused_not_wrapped():
    """+128 does not fit into eight bits, -128 does; nor does 8 into four."""
    wide = Tensor(np.array([-128, 127], np.int16), "int16")
    assert wide.integers(8).values.tolist() == [-128, 127]
    for values, bits in (([128], 8), ([-129], 8), ([8], 4), ([-9], 4)):
        with pytest.raises(Refused) as told:
            Tensor(np.array(values, np.int16), "int16").integers(bits)
        assert told.value.code == "workload-range"
    for bits in (0, 1, 17):
        with pytest.raises(Refused, match="2 to 16 bits"):
            wide.integers(bits)
        with pytest.raises(Refused, match="2 to 16 bits"):
            rounded(np.ones(2), bits)


def test_a_grid_for_bf16_and_bf16_for_a_grid():
    """Both ways the numbers stay what they were, to the nearest."""
    x = halves(4, 5)
    found = x.integers(16)
    assert np.abs(found.real() - x.real()).max() <= 0.5001 * float(found.scale)
    assert same(x.bf16(), x)
    y = ints(3, 4)
    assert np.array_equal(y.bf16().real(), y.real())  # eight bits of fraction hold integers to 256


@pytest.mark.parametrize(
    ("values", "format", "scale"),
    [
        (np.zeros(3, np.int16), "int8", 1.0),
        (np.zeros(3, np.float32), "bf16", 1.0),
        (np.zeros(3, np.int8), "int7", 1.0),
        (np.zeros(3, np.int8), "int8", 0.0),
        (np.zeros(3, np.int8), "int8", -1.0),
        (np.zeros(3, np.int8), "int8", np.nan),
        (np.zeros(3, np.int8), "int8", np.ones(2, np.float32)),
        (np.zeros((3, 2), np.int8), "int8", np.ones((3, 2), np.float32)),
    ],
)
def test_operands_that_make_no_sense_are_refused(values, format, scale):
    """Wrong type for the format, unknown format, scales that are no scales or too many."""
    with pytest.raises(Refused) as told:
        Tensor(values, format, scale)
    assert told.value.code == "workload-tensor"


def test_masks_say_what_is_zero():
    """Eight a byte, the first lowest; both zeros of bfloat16 are zero."""
    x = Tensor(np.array([[1, 0, 3, 0, 0, 0, 0, -8, 2]], np.int8), "int8")
    assert x.mask.tolist() == [[0b10000101, 1]]
    zeros = Tensor(np.array([0x0000, 0x8000, 0x0001], np.uint16), "bf16")
    assert zeros.nonzero.tolist() == [False, False, True]
    wide = ints(5, 19)
    back = np.unpackbits(wide.mask, axis=-1, bitorder="little", count=19).astype(bool)
    assert np.array_equal(back, wide.nonzero)


# products


def test_a_product_is_the_sum_over_k():
    """In integers exactly, also where float64 would not be exact; its counts are those of the loops."""
    one = Gemm("g", ints(4, 9), ints(3, 9))
    wanted = np.zeros((4, 3), int)
    effectual = 0
    for m in range(4):
        for n in range(3):
            for k in range(9):
                a, b = int(one.a.values[m, k]), int(one.b.values[n, k])
                wanted[m, n] += a * b
                effectual += a != 0 and b != 0
    assert np.array_equal(one.result(), wanted)
    assert one.effectual() == effectual
    assert (one.size, one.macs) == ((4, 3, 9), 108)
    big = Tensor(np.full((1, 64), (1 << 28) - 1, np.int32), "int32")
    assert Gemm("big", big, big).result().tolist() == [[64 * ((1 << 28) - 1) ** 2]]
    huge = Tensor(np.full((1, 4), -(1 << 31), np.int32), "int32")
    with pytest.raises(Refused, match="beyond 63 bits") as told:
        Gemm("huge", huge, huge).result()
    assert told.value.code == "workload-integers"
    with pytest.raises(Refused, match="halves: an exact product is of integers"):
        Gemm("halves", halves(2, 3), halves(2, 3)).result()


def test_padding_k_changes_no_product():
    """Zeros are appended up to a multiple of the block."""
    one = Gemm("g", ints(4, 9), ints(3, 9))
    (wide,) = one.products(block=16)
    assert wide.size == (4, 3, 16)
    assert np.array_equal(wide.result(), one.result())
    assert wide.effectual() == one.effectual()
    assert [same(x.a, one.a) for x in one.products()] == [True]


CONVOLUTIONS = [
    # b, c, h, w, o, kh, kw, stride, padding, dilation, groups
    (1, 3, 7, 7, 4, 3, 3, (1, 1), (1, 1), (1, 1), 1),
    (2, 4, 9, 8, 6, 3, 2, (2, 1), (1, 0), (1, 1), 2),
    (2, 6, 8, 8, 6, 3, 3, (1, 2), (2, 2), (2, 1), 6),
    (1, 4, 1, 12, 8, 1, 5, (1, 3), (0, 2), (1, 2), 4),
    (3, 5, 4, 4, 7, 1, 1, (2, 2), (0, 0), (1, 1), 1),
    (1, 2, 5, 5, 2, 5, 5, (1, 1), (0, 0), (1, 1), 1),
    (1, 8, 6, 6, 4, 2, 2, (3, 3), (1, 1), (3, 3), 2),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("block", [1, 16])
def test_products_of_a_convolution_equal_torch(case, block):
    """Groups, strides, dilation and padding; one product a group, integers exact."""
    b, c, h, w, o, kh, kw, stride, padding, dilation, groups = case
    one = Conv("c", ints(b, c, h, w), ints(o, c // groups, kh, kw), stride, padding, dilation, groups)
    wanted = F.conv2d(
        torch.from_numpy(one.x.values).double(), torch.from_numpy(one.weight.values).double(), None, stride,
        padding, dilation, groups,
    ).numpy()  # fmt: skip
    parts = list(one.products(block))
    assert len(parts) == groups
    found = np.concatenate(
        [part.result().reshape(b, *one.out, -1).transpose(0, 3, 1, 2) for part in parts], 1
    )
    assert np.array_equal(found, wanted)
    assert one.out == wanted.shape[2:]
    assert one.macs == b * o * one.out[0] * one.out[1] * (c // groups) * kh * kw
    ones = F.conv2d(
        torch.from_numpy(one.x.nonzero).double(), torch.from_numpy(one.weight.nonzero).double(), None, stride,
        padding, dilation, groups,
    )  # fmt: skip
    assert one.effectual() == int(ones.sum())
    assert len({part.name for part in parts}) == groups


def test_products_of_a_convolution_keep_scales():
    """One an image, one an output: the real product is torch's."""
    x = rounded(DRAW.standard_normal((3, 4, 5, 5)), per_row=True)
    weight = rounded(DRAW.standard_normal((6, 2, 3, 3)), per_row=True)
    one = Conv("c", x, weight, groups=2)
    wanted = F.conv2d(torch.from_numpy(x.real()), torch.from_numpy(weight.real()), groups=2).numpy()
    parts = [part.a.real() @ part.b.real().T for part in one.products()]
    found = np.concatenate([part.reshape(3, 3, 3, 3).transpose(0, 3, 1, 2) for part in parts], 1)
    assert np.allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["int8", "bf16"])
def test_attention_equals_torch(kind, causal):
    """Probabilities of the operands that were recorded, for each sequence and head, with a bias too."""
    lengths = np.array([3, 1, 5])
    make = ints if kind == "int8" else halves
    bias = DRAW.standard_normal(2 * int((lengths**2).sum())).astype(np.float32)
    bias[1] = -np.inf
    one = Attention("a", make(9, 2, 4), make(9, 2, 4), make(9, 2, 3), lengths, 0.01, causal=causal, bias=bias)
    q, k, v = (torch.from_numpy(x.real()) for x in (one.q, one.k, one.v))
    start = 0
    for number, rows in enumerate(one.sequences()):
        n = int(lengths[number])
        added = torch.from_numpy(bias[start : start + 2 * n * n]).view(2, n, n)
        start += 2 * n * n
        if causal:
            added = added.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), -torch.inf)
        for head in range(2):
            logits = q[rows, head] @ k[rows, head].T * 0.01 + added[head]
            assert np.allclose(one.probabilities(rows, head), logits.softmax(-1).numpy(), atol=1e-6)
            wanted = logits.softmax(-1) @ v[rows, head]
            found = next(part for part in one.products() if part.name == f"a[{number},{head}].context")
            step = 0.5 / 127 if kind == "int8" else 2**-8
            reach = float(v[rows, head].abs().sum(0).max()) * step
            assert np.allclose(found.a.real() @ found.b.real().T, wanted.numpy(), atol=reach + 1e-5)


def test_products_of_attention_are_scores_and_context():
    """Two a sequence and head, k padded to the block, and as many multiplications as the record says."""
    lengths = np.array([3, 2])
    one = Attention("a", ints(5, 2, 4), ints(5, 2, 4), ints(5, 2, 6), lengths, 0.1)
    parts = list(one.products())
    assert len(parts) == 2 * 2 * 2
    assert sum(part.macs for part in parts) == one.macs == (9 + 4) * 2 * (4 + 6)
    scores = parts[0]
    assert np.array_equal(
        scores.result(), one.q.values[:3, 0].astype(int) @ one.k.values[:3, 0].astype(int).T
    )
    assert scores.a.scale == one.q.scale
    assert parts[1].b.shape == (6, 3)
    assert parts[1].a.values.max() <= 127
    assert parts[1].a.values.min() >= 0
    assert all(part.size[2] % 16 == 0 for part in one.products(16))
    assert one.effectual() == sum(part.effectual() for part in parts)


def test_a_query_that_sees_nobody_has_no_probabilities():
    """Its row is zeros, no NaN."""
    bias = np.array([0, 0, -np.inf, -np.inf], np.float32)
    one = Attention("a", ints(2, 1, 4), ints(2, 1, 4), ints(2, 1, 4), np.array([2]), 0.1, bias=bias)
    found = one.probabilities(slice(0, 2), 0)
    assert found[1].tolist() == [0, 0]
    assert found[0].sum() == pytest.approx(1)


def test_layers_whose_shapes_do_not_fit_are_refused_by_name():
    """Each kind says its name and what it was given."""
    q = ints(4, 2, 3)
    whole = np.array([4])
    wrong = [
        lambda: Gemm("L1", ints(2, 3), ints(2, 4)),
        lambda: Gemm("L1", ints(2, 3, 1), ints(2, 3)),
        lambda: Gemm("L1", ints(2, 3), ints(2, 3), "sideways"),
        lambda: Conv("L1", ints(1, 4, 5, 5), ints(2, 3, 3, 3)),
        lambda: Conv("L1", ints(1, 4, 5, 5), ints(3, 2, 3, 3), groups=2),
        lambda: Conv("L1", ints(1, 4, 5, 5), ints(2, 4, 6, 6)),
        lambda: Conv("L1", ints(1, 4, 5, 5), ints(2, 4, 3, 3), (0, 1)),
        lambda: Conv("L1", ints(1, 4, 5, 5), ints(2, 4, 3, 3), (1, 1), (-1, 0)),
        lambda: Conv("L1", ints(1, 4, 5, 5), ints(2, 4, 3, 3), (1,)),
        lambda: Conv("L1", ints(1, 4, 5, 5), ints(2, 4, 3, 3), (1.5, 1)),
        lambda: Conv("L1", ints(1, 4, 5, 5), ints(2, 4, 0, 3)),
        lambda: Conv("L1", ints(1, 4, 5, 5), ints(2, 4, 3, 3), groups=0),
        lambda: Attention("L1", q, ints(4, 2, 4), q, whole, 0.5),
        lambda: Attention("L1", q, q, ints(4, 3, 3), whole, 0.5),
        lambda: Attention("L1", q, q, q, np.array([3]), 0.5),
        lambda: Attention("L1", q, q, q, np.array([4, 0]), 0.5),
        lambda: Attention("L1", q, q, q, np.array([[4]]), 0.5),
        lambda: Attention("L1", q, q, q, whole, float("nan")),
        lambda: Attention("L1", q, q, q, whole, 0.5, tokens=np.arange(3)),
        lambda: Attention("L1", q, q, q, whole, 0.5, heads=(1,)),
        lambda: Attention("L1", q, q, q, whole, 0.5, bias=np.zeros(31, np.float32)),
        lambda: Attention("L1", q, q, q, whole, 0.5, bias=np.zeros(32)),
        lambda: Attention("L1", q, q, Tensor(q.values, "int8", np.ones(4, np.float32)), whole, 0.5),
    ]
    for make in wrong:
        with pytest.raises(Refused, match="L1: ") as told:
            make()
        assert told.value.code == "workload-shape"
    with pytest.raises(Refused, match="L1: its bias holds NaN"):
        Attention("L1", q, q, q, whole, 0.5, bias=np.full(32, np.nan, np.float32))


# on disk


def test_what_is_saved_is_what_is_loaded(tmp_path):
    """Every kind of layer, every optional part, bit for bit; facts too."""
    made = example()
    made.save(tmp_path / "trace")
    found = Workload.load(tmp_path / "trace")
    assert len(found) == len(made)
    assert found.facts == made.facts
    for one, other in zip(made, found, strict=True):
        assert (one.kind, one.name, one.settings()) == (other.kind, other.name, other.settings())
        assert all(same(x, other.tensors()[key]) for key, x in one.tensors().items())
        assert one.macs == other.macs
        if isinstance(one, Attention):
            for key in ("lengths", "tokens", "bias"):
                assert np.array_equal(getattr(one, key), getattr(other, key))
                assert (getattr(one, key) is None) == (getattr(other, key) is None)
    assert [one.name for one in found[1:3]] == ["dense", "conv"]
    assert found[-1].name == "all"
    again = tmp_path / "again"
    found.save(again)
    assert (again / INDEX).read_bytes() == (tmp_path / "trace" / INDEX).read_bytes()


def test_the_index_tells_sizes_without_reading_layers(tmp_path):
    """Shapes, formats, densities and multiplications stand in trace.json."""
    made = example()
    made.save(tmp_path / "trace")
    index = json.loads((tmp_path / "trace" / INDEX).read_text())
    first = index["layers"][0]
    assert first["macs"] == made[0].macs
    assert first["operands"]["a"]["shape"] == [5, 12]
    assert first["operands"]["a"]["density"] == pytest.approx(made[0].a.density, abs=1e-6)
    assert [x["kind"] for x in index["layers"]] == ["gemm", "gemm", "conv", "attention", "attention"]


def test_empty_operands_survive_the_disk(tmp_path):
    """A layer that no token reached."""
    made = Workload([Gemm("none", Tensor(np.zeros((0, 4), np.int8), "int8"), ints(3, 4))])
    made.save(tmp_path / "trace")
    assert Workload.load(tmp_path / "trace")[0].size == (0, 3, 4)


def test_a_trace_larger_than_memory_is_read_layer_by_layer(tmp_path):
    """Sixteen layers of 1 MB are written and read while never more than a few of them are held."""
    tracemalloc.start()
    try:
        with Writer(tmp_path / "trace") as out:
            for number in range(16):
                x = Tensor(np.full((1024, 1024), number + 1, np.int8), "int8")
                out.add(Gemm(f"layer {number}", x, Tensor(np.ones((1, 1024), np.int8), "int8")))
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        total = 0
        for layer in Workload.load(tmp_path / "trace"):
            total += int(layer.a.values[0, 0])
        read = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == sum(range(1, 17))
    assert max(written, read) < 5 << 20, (written, read)


def test_opening_a_trace_reads_no_layer(tmp_path):
    """A missing layer is told when it is asked for; the others are read."""
    example().save(tmp_path / "trace")
    (tmp_path / "trace" / "layer-00002.safetensors").unlink()
    found = Workload.load(tmp_path / "trace")
    assert found[0].name == "dense"
    with pytest.raises(InputOutput, match=r"layer conv of .*layer-00002\.safetensors is missing") as told:
        found[2]
    assert told.value.code == "trace-corrupt"


def test_a_folder_without_index_is_no_trace(tmp_path):
    """It says how to record one."""
    with pytest.raises(InputOutput, match="sparsam trace MODEL") as told:
        Workload.load(tmp_path)
    assert told.value.code == "trace-missing"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "17", "null", '{"version": 1}', '{"version": 1, "layers": {}}', "[" * 100_000, "\xff"],
    ids=lambda text: text[:20],
)
def test_an_index_that_is_none_is_told(tmp_path, text):
    """Cut short, another object, nested without end, not UTF-8."""
    (tmp_path / INDEX).write_bytes(text.encode("latin-1"))
    with pytest.raises(InputOutput) as told:
        Workload.load(tmp_path)
    assert told.value.code == "trace-corrupt"
    assert str(tmp_path) in str(told.value)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_trace_of_another_version_is_refused(tmp_path, version):
    """By its number."""
    (tmp_path / INDEX).write_text(json.dumps({"version": version, "layers": []}))
    with pytest.raises(Refused, match="version") as told:
        Workload.load(tmp_path)
    assert told.value.code == "trace-version"


def spoiled(folder: Path, number: int, change) -> Workload:
    """A trace whose index is changed; sums of files are set right again."""
    example().save(folder)
    index = json.loads((folder / INDEX).read_text())
    change(index["layers"][number])
    (folder / INDEX).write_text(json.dumps(index))
    return Workload.load(folder)


def rewritten(folder: Path, number: int, change) -> Workload:
    """A trace of which one layer's arrays are changed, with the right sum in the index."""
    import hashlib

    example().save(folder)
    file = folder / f"layer-{number:05d}.safetensors"
    arrays = load_file(file)
    change(arrays)
    save_file(arrays, file)
    index = json.loads((folder / INDEX).read_text())
    index["layers"][number]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / INDEX).write_text(json.dumps(index))
    return Workload.load(folder)


@pytest.mark.parametrize("cut", [0, 5, 100, -1])
def test_a_layer_cut_short_is_told(tmp_path, cut):
    """At any length, by name."""
    example().save(tmp_path / "trace")
    file = tmp_path / "trace" / "layer-00000.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(InputOutput, match="layer dense of .* is not as it was written") as told:
        Workload.load(tmp_path / "trace")[0]
    assert told.value.code == "trace-corrupt"


def test_every_flipped_byte_is_told(tmp_path):
    """None of a layer's bytes may differ."""
    example().save(tmp_path / "trace")
    file = tmp_path / "trace" / "layer-00001.safetensors"
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(InputOutput, match="not as it was written"):
            Workload.load(tmp_path / "trace")[1]


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one.pop("file"),
        lambda one: one.pop("sha256"),
        lambda one: one.pop("operands"),
        lambda one: one.pop("settings"),
        lambda one: one.update(kind="pool"),
        lambda one: one.update(kind=["conv"]),
        lambda one: one.update(file="../../etc/passwd"),
        lambda one: one.update(file=17),
        lambda one: one.update(operands=[1, 2]),
        lambda one: one["operands"].pop("weight"),
        lambda one: one["operands"].update(more={"format": "int8", "shape": [1], "scale": 1.0}),
        lambda one: one["operands"]["x"].pop("format"),
        lambda one: one["operands"]["x"].update(scale="large"),
        lambda one: one["operands"]["x"].update(scale=None),
        lambda one: one["operands"]["x"].update(shape=[1, 2]),
        lambda one: one["settings"].update(stride=["a", 1]),
        lambda one: one["settings"].update(groups="two"),
        lambda one: one["settings"].update(unknown=1),
        lambda one: one["settings"].pop("role") and one["settings"].update(name="other"),
    ],
)
def test_an_entry_that_is_off_is_told(tmp_path, change):
    """A missing key, another kind, a path out of the folder, an operand too many: always by name, never a bare KeyError."""
    found = spoiled(tmp_path / "trace", 2, change)
    with pytest.raises((InputOutput, Refused), match="layer conv of ") as told:
        found[2]
    assert told.value.code in ("trace-corrupt", "workload-shape")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda one: one["operands"]["x"].update(format="int8"), "workload-tensor"),
        (lambda one: one["operands"]["x"].update(scale=float("nan")), "workload-tensor"),
        (lambda one: one["settings"].update(stride=[0, 1]), "workload-shape"),
        (lambda one: one["settings"].update(stride=[]), "workload-shape"),
        (lambda one: one["settings"].update(padding=[1, 1, 1]), "workload-shape"),
        (lambda one: one["settings"].update(role="sideways"), "workload-shape"),
    ],
)
def test_settings_that_make_no_layer_are_refused_by_name(tmp_path, change, code):
    """As when such a layer is made, with the folder and the name in front."""
    found = spoiled(tmp_path / "trace", 2, change)
    with pytest.raises(Refused, match="layer conv of ") as told:
        found[2]
    assert told.value.code == code


@pytest.mark.parametrize("entry", [None, 3, "conv", []])
def test_an_entry_that_is_no_object_is_told(tmp_path, entry):
    """Whatever stands there."""
    example().save(tmp_path / "trace")
    index = json.loads((tmp_path / "trace" / INDEX).read_text())
    index["layers"][0] = entry
    (tmp_path / "trace" / INDEX).write_text(json.dumps(index))
    with pytest.raises(InputOutput, match="cannot be read"):
        Workload.load(tmp_path / "trace")[0]


def test_numbers_that_are_not_finite_are_refused_when_read(tmp_path):
    """A layer of bfloat16 with a NaN and the right sum; scales that are no scales; a bias of NaN."""
    found = rewritten(tmp_path / "a", 2, lambda arrays: arrays["x"].__setitem__((0, 0, 0, 0), 0x7FC0))
    with pytest.raises(Refused, match=r"layer conv of .* infinite or NaN, the first at \(0, 0, 0, 0\)"):
        found[2]
    found = rewritten(tmp_path / "b", 0, lambda arrays: arrays["b.scale"].__setitem__(2, 0))
    with pytest.raises(Refused, match="layer dense of .* scale"):
        found[0]
    found = rewritten(tmp_path / "c", 4, lambda arrays: arrays["bias"].__setitem__(2, np.nan))
    with pytest.raises(Refused, match="layer all of .* NaN"):
        found[4]


def test_missing_arrays_are_told(tmp_path):
    """A layer without one of its operands or its lengths, with the right sum."""
    for number, key, name in ((0, "a", "dense"), (3, "lengths", "plain"), (2, "weight", "conv")):
        found = rewritten(tmp_path / key, number, lambda arrays, key=key: arrays.pop(key))
        with pytest.raises(InputOutput, match=f"layer {name} of .*{key}"):
            found[number]


# writing


def test_two_layers_of_one_name_and_role_are_refused(tmp_path):
    """Another role is another layer."""
    with Writer(tmp_path / "trace") as out:
        out.add(Gemm("g", ints(1, 2), ints(1, 2)))
        out.add(Gemm("g", ints(1, 2), ints(1, 2), "grad_input"))
        with pytest.raises(Refused, match="two layers are called g") as told:
            out.add(Gemm("g", ints(1, 2), ints(1, 2)))
    assert told.value.code == "trace-name"


def test_a_trace_that_fails_half_way_leaves_nothing(tmp_path):
    """No folder where there was none; the old trace, bit for bit, where there was one."""

    def fail(folder: Path) -> None:
        with Writer(folder) as out:
            out.add(Gemm("new", ints(1, 2), ints(1, 2)))
            raise RuntimeError("the model stopped")

    with pytest.raises(RuntimeError, match="the model stopped"):
        fail(tmp_path / "trace")
    assert list(tmp_path.iterdir()) == []
    example().save(tmp_path / "trace")
    before = {file.name: file.read_bytes() for file in (tmp_path / "trace").iterdir()}
    with pytest.raises(RuntimeError, match="the model stopped"):
        fail(tmp_path / "trace")
    assert {file.name: file.read_bytes() for file in (tmp_path / "trace").iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["trace"]


def test_a_new_trace_takes_the_old_ones_place(tmp_path):
    """No layer of the old one is left; other people may read it."""
    example().save(tmp_path / "trace")
    Workload([Gemm("only", ints(1, 2), ints(1, 2))]).save(tmp_path / "trace")
    assert sorted(file.name for file in (tmp_path / "trace").iterdir()) == ["layer-00000.safetensors", INDEX]
    assert [file.name for file in tmp_path.iterdir()] == ["trace"]
    assert (tmp_path / "trace" / INDEX).stat().st_mode & 0o044
    (tmp_path / "empty").mkdir()
    example().save(tmp_path / "empty")
    assert len(Workload.load(tmp_path / "empty")) == 5


def test_a_trace_may_be_saved_over_itself(tmp_path):
    """Its layers are read from the old place until the new one is whole."""
    example().save(tmp_path / "trace")
    Workload.load(tmp_path / "trace").save(tmp_path / "trace")
    assert [one.name for one in Workload.load(tmp_path / "trace")] == [one.name for one in example()]


def test_what_a_killed_process_left_is_cleared(tmp_path):
    """Once it is a day old; a younger one may belong to somebody at work."""
    import os

    old, young = tmp_path / "trace.writing-1-aaaaaa", tmp_path / "trace.writing-2-bbbbbb"
    for place in (old, young):
        place.mkdir()
    os.utime(old, (0, 0))
    example().save(tmp_path / "trace")
    assert not old.exists()
    assert young.exists()


def test_folders_of_others_are_left_alone(tmp_path):
    """A folder that holds something else, or a file."""
    (tmp_path / "mine.txt").write_text("keep")
    for place in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(Usage) as told:
            Writer(place)
        assert told.value.code == "trace-folder"
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_facts_that_are_no_json_are_refused_before_the_work(tmp_path):
    """And when they were added on the way nothing is written."""
    for facts in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises(Usage, match="JSON"):
            Writer(tmp_path / "trace", facts)
    with pytest.raises(Usage, match="JSON"), Writer(tmp_path / "trace") as out:
        out.facts["x"] = {1, 2}
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    """A file stands where a folder should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputOutput) as told, Writer(tmp_path / "file" / "trace"):
        pass
    assert told.value.code == "trace-write"


def test_the_module_imports_no_torch():
    """A stored trace is read where torch is not installed."""
    import subprocess
    import sys

    code = "import sys, sparsam.workload; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_attention_whose_logits_overflow_is_refused():
    """Infinite or NaN products of queries and keys are no zeros."""
    q = rounded(np.ones((3, 1, 4)))
    big = replace(q, scale=1e36)
    layer = Attention("a", big, big, q, np.array([3]), 1.0)
    with pytest.raises(Refused, match="a: a product of queries and keys is infinite or NaN") as error:
        list(layer.products())
    assert error.value.code == "workload-not-finite"


@pytest.mark.parametrize(
    "wrong",
    [
        {"lengths": np.array([2**63 - 1, 2**63 - 1, 4])}, {"lengths": np.array([1.0, 1.0])}, {"tokens": np.array([0, 2**40])},
        {"tokens": np.array([-1, 0])}, {"tokens": np.array([0.0, 1.0])}, {"heads": ("a",)}, {"heads": (True,)},
        {"heads": (-1,)},
    ],
)  # fmt: skip
def test_attention_with_impossible_lengths_places_or_heads_is_refused(wrong):
    """Sums that wrap, fractions, places beyond any sequence, heads that are no numbers."""
    q = rounded(np.ones((2, 1, 4)))
    given = {"lengths": np.array([2]), "scale": 1.0} | wrong
    with pytest.raises(Refused) as error:
        Attention("a", q, q, q, **given)
    assert error.value.code == "workload-shape"


def test_a_trace_that_names_a_layer_twice_is_corrupt(tmp_path):
    """It would be counted twice."""
    Workload([Gemm("g", rounded(np.ones((2, 3))), rounded(np.ones((2, 3))))]).save(tmp_path / "t")
    index = json.loads((tmp_path / "t" / "trace.json").read_text())
    index["layers"] *= 2
    (tmp_path / "t" / "trace.json").write_text(json.dumps(index))
    with pytest.raises(InputOutput, match="more than once") as error:
        Workload.load(tmp_path / "t")
    assert error.value.code == "trace-corrupt"
