"""Calls that eager torch takes although tensors without data are refused there by torch's own rules, and their neighbours."""

import dtype_probe  # tests/shapes/dtype_probe.py
import pytest
import torch
import torch.nn.functional as F
from test_strictness import HEAD, difference, ours

from sparsam.shapes.check import check
from sparsam.shapes.checker import substituted
from sparsam.shapes.verdict import Verdict

DTYPES = (torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64, torch.float32)


def trial(call, *tensors, **named) -> dtype_probe.Trial:
    """A call of these tensors."""
    return dtype_probe.Trial(call.__name__, "", call, (tensors[0], tensors[1:], named))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_condition_of_any_type(dtype):
    """`torch.where` takes truth values and bytes, and nothing else."""
    with substituted():
        made = trial(torch.where, torch.zeros(3, dtype=dtype), torch.zeros(3), torch.ones(1))
        assert difference(made) == ""
        assert (ours(made).failure is None) == (dtype in (torch.bool, torch.uint8))


@pytest.mark.parametrize("mode", ["sum", "max"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bags_of_any_type(dtype, mode):
    """`embedding_bag` takes rows of any type that its offsets' type can hold, and offsets of any that the rows' can."""
    table, rows, offsets = torch.rand(5, 3), torch.zeros(4), torch.zeros(2)
    with substituted():
        for one, other in ((dtype, torch.int64), (torch.int64, dtype), (dtype, dtype)):
            made = trial(F.embedding_bag, rows.to(one), table, offsets.to(other), mode=mode)
            assert difference(made) == ""
        flat = ours(trial(F.embedding_bag, rows.to(dtype)[None], table, mode=mode))
        assert (flat.failure is None) == (dtype in (torch.int32, torch.int64))


@pytest.mark.parametrize("kernel", [0, 2])
@pytest.mark.parametrize("channels", [0, 2])
@pytest.mark.parametrize("name", ["conv1d", "conv3d", "conv_transpose2d"])
def test_convolutions_of_nothing(name, channels, kernel):
    """Without channels a kernel may be empty, unless the convolution is transposed."""
    call, spatial = getattr(F, name), int(name[-2])
    picture = torch.zeros(2, channels, *[4] * spatial)
    weight = (
        torch.zeros(channels, 3, *[kernel] * spatial)
        if "transpose" in name
        else torch.zeros(3, channels, *[kernel] * spatial)
    )
    with substituted():
        made = trial(call, picture, weight)
        assert difference(made) == ""
        assert (ours(made).failure is None) == (
            (kernel > 0 and channels > 0) or (channels == 0 and "transpose" not in name)
        )


def test_an_empty_kernel_is_an_error_where_there_are_channels(tmp_path):
    """Of all channels and kernels the empty kernels of some channels are found, and nothing else."""
    file = tmp_path / "piece.py"
    file.write_text(f"{HEAD}def f(x, w):\n    return F.conv1d(x, w)\n")
    sizes = ["x=2×C×6", "w=3×C×K", "K=0..4"]
    report = check(f"{file}:f", [*sizes, "C=0..3"], sandboxed=False)
    assert report.verdict is Verdict.ERROR
    assert all(finding.witness["K"] == 0 and finding.witness["C"] > 0 for finding in report.findings)
    assert check(f"{file}:f", [*sizes, "C=0..0"], sandboxed=False).verdict is Verdict.PROVED


MASKED = {
    "x.masked_select(m), x.masked_select(m)": Verdict.PROVED,
    "x.masked_select(m), x[0].masked_select(m)": Verdict.PROVED,
    "x.masked_select(m), x[m]": Verdict.PROVED,
    "x.masked_select(m), x.masked_select(x > 1)": Verdict.ERROR,
}


@pytest.mark.parametrize("pair", MASKED)
def test_one_mask_chooses_as_many_of_two_tensors(pair, tmp_path):
    """What a mask chooses of two tensors can be put together, and what two masks choose cannot."""
    file = tmp_path / "piece.py"
    file.write_text(f"{HEAD}def f(x):\n    m = x > 0\n    return torch.stack([{pair}])\n")
    assert check(f"{file}:f", ["x=N×3", "N=1..9"], sandboxed=False).verdict is MASKED[pair]


@pytest.mark.parametrize(
    "sizes", [((3, 2), (3,)), ((3, 2), (2,)), ((2, 3, 2), (3,)), ((3,), (3,)), ((3, 2), ())]
)
def test_least_squares_of_wrong_dimensions(sizes):
    """`lstsq` takes matrices, and right sides for their rows."""
    with substituted():
        assert difference(trial(torch.linalg.lstsq, *map(torch.ones, sizes))) == ""


@pytest.mark.parametrize("sizes", [(), (5,), (5, 3), (1, 5, 3)])
def test_tables_of_wrong_dimensions(sizes):
    """A table of an embedding has rows and columns."""
    with substituted():
        assert difference(trial(F.embedding, torch.zeros(2, dtype=torch.long), torch.ones(sizes))) == ""


@pytest.mark.parametrize("spatial", [2, 3])
@pytest.mark.parametrize("samples", [torch.float32, torch.float64])
@pytest.mark.parametrize("pictures", [torch.float32, torch.float64])
def test_fractional_pooling_of_two_precisions(pictures, samples, spatial):
    """Samples of another precision than the pictures' are refused, as with data, in two dimensions and in three."""
    drawn = torch.rand(2, 3, spatial, dtype=samples)

    def pooled(picture, drawn):
        pool = getattr(torch.nn, f"FractionalMaxPool{spatial}d")(3, output_size=4, _random_samples=drawn)
        return pool(picture)

    with substituted():
        made = trial(pooled, torch.rand(2, 3, *[9] * spatial, dtype=pictures), drawn)
        assert difference(made) == ""
        assert (ours(made).failure is None) == (pictures == samples)
