"""The kernel in machine code: the reference's numbers, and torch's operators where there is no compiler."""

import os
import sys

import numpy as np
import pytest
import torch

from sparsam.attention import native, softmax
from sparsam.attention.single import attend_single
from sparsam.native import built, compiler

LENGTHS = ((1,), (5,), (7, 3, 0, 33), (16, 17, 32, 31), (130, 257))
WIDTHS = (8, 16, 24, 32, 64, 80)
ERRORS = {torch.float32: 2e-5, torch.bfloat16: 3e-2}


@pytest.fixture
def compiled() -> None:
    """Skips where this machine cannot compile."""
    if native.kernel() is None:
        pytest.skip("no C compiler, or SPARSAM_NATIVE=0")


def tensors(lengths: tuple[int, ...], width: int, dtype: torch.dtype, heads: int = 3) -> list[torch.Tensor]:
    """q, k and v as a fused product gives them: side by side in each row."""
    torch.manual_seed(width)
    t = sum(lengths)
    mixed = torch.randn(t, 3 * heads * width).to(dtype)
    return [part.view(t, heads, width) for part in mixed.chunk(3, 1)]


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", list(ERRORS), ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_the_numbers_are_the_references(lengths: tuple[int, ...], width: int, dtype: torch.dtype) -> None:
    q, k, v = tensors(lengths, width, dtype)
    assert native.fits(q, k, v)
    t = sum(lengths)
    for bias, weight in ((None, None), (torch.randn(t), None), (torch.randn(t), torch.rand(t))):
        settings = {"scale": 2 * width**-0.5, "scores": True, "key_bias": bias, "row_weight": weight}
        out, received = native.attend(q, k, v, lengths, **settings)
        want, sums = softmax.reference(q, k, v, lengths, **settings)
        assert out.dtype == dtype
        torch.testing.assert_close(out.float(), want.float(), atol=ERRORS[dtype], rtol=0)
        torch.testing.assert_close(received, sums, atol=2e-5 * max(lengths), rtol=0)
        assert native.attend(q, k, v, lengths, **(settings | {"scores": False}))[1] is None


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", list(ERRORS), ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_one_query_a_sequence(dtype: torch.dtype, biased: bool) -> None:
    lengths = (1, 33, 16, 200)
    q, k, v = tensors(lengths, 32, dtype)
    sequences = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))
    bias = torch.randn(len(k)) if biased else None
    first = q[[0, 1, 34, 50]]
    got = native.attend_single(first, k, v, sequences, scale=0.3, key_bias=bias)
    want = attend_single(first.float(), k.float(), v.float(), sequences, scale=0.3, key_bias=bias)
    torch.testing.assert_close(got.float(), want, atol=ERRORS[dtype], rtol=0)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("size", [0.0, 1e-30, 30.0, 1e4])
def test_large_and_small_logits(size: float) -> None:
    """The largest logit of each row is taken off before the exponential, however large it is."""
    q, k, v = tensors((9, 40), 32, torch.float32)
    got, sums = native.attend(q * size, k, v, (9, 40), scale=1.0, scores=True)
    want, expected = softmax.reference(q * size, k, v, (9, 40), scale=1.0, scores=True)
    assert torch.isfinite(got).all()
    torch.testing.assert_close(got, want, atol=2e-4, rtol=0)
    torch.testing.assert_close(sums, expected, atol=2e-3, rtol=0)


@pytest.mark.usefixtures("compiled")
def test_a_number_that_is_none_is_not_hidden() -> None:
    q, k, v = tensors((8,), 32, torch.bfloat16)
    q = q.clone()
    q[3, 1, 5] = float("nan")
    out, _ = native.attend(q, k, v, (8,), scale=0.2)
    assert torch.isnan(out[3, 1]).all()
    assert torch.isfinite(out[3, 0]).all()
    assert torch.isfinite(out[4]).all()


@pytest.mark.usefixtures("compiled")
def test_threads_change_nothing() -> None:
    lengths = tuple(range(1, 40))
    q, k, v = tensors(lengths, 32, torch.float32)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(native.attend(q, k, v, lengths, scale=0.2, scores=True))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_what_it_does_not_take_goes_to_torch() -> None:
    q, k, v = tensors((3, 4), 16, torch.float32)
    assert not native.fits(q.double(), k.double(), v.double())
    assert not native.fits(q.clone().requires_grad_(), k, v)
    assert not native.fits(q[:, :0], k[:, :0], v[:, :0])
    assert not native.fits(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    wanted = softmax.attend(q.double(), k.double(), v.double(), (3, 4), scale=0.5)[0]
    assert torch.equal(native.attend(q.double(), k.double(), v.double(), (3, 4), scale=0.5)[0], wanted)
    learned = q.clone().requires_grad_()
    native.attend(learned, k, v, (3, 4), scale=0.5)[0].sum().backward()
    assert learned.grad is not None


@pytest.mark.parametrize(
    "why", ["switched off", "no compiler", "a compiler that fails", "one that says nothing"]
)
def test_without_a_compiler_torch_computes(
    why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: "os.PathLike[str]"
) -> None:
    fake = os.path.join(tmp_path, "fake")
    with open(fake, "w") as file:
        file.write("#!/bin/sh\n" + ("exit 1\n" if why == "a compiler that fails" else "exit 0\n"))
    os.chmod(fake, 0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if why == "switched off":
        monkeypatch.setenv("SPARSAM_NATIVE", "0")
    else:
        monkeypatch.setenv("CC", "/nowhere/cc" if why == "no compiler" else fake)
    native.kernel.cache_clear()
    try:
        assert native.kernel() is None
        q, k, v = tensors((3, 4), 16, torch.float32)
        got = native.attend(q, k, v, (3, 4), scale=0.5, scores=True)
        want = softmax.attend(q, k, v, (3, 4), scale=0.5, scores=True)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    finally:
        native.kernel.cache_clear()


@pytest.mark.usefixtures("compiled")
@pytest.mark.skipif(sys.platform == "win32", reason="file modes")
def test_a_library_that_others_could_have_written_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: "os.PathLike[str]"
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program = compiler()
    assert program is not None
    place = built(program, native.SOURCE)
    assert str(place).startswith(str(tmp_path))
    good = place.read_bytes()
    assert built(program, native.SOURCE) == place, "the second call takes what is there"
    place.write_bytes(b"not a library")
    place.chmod(0o666)
    assert built(program, native.SOURCE).read_bytes() == good
    place.parent.chmod(0o777)
    elsewhere = built(program, native.SOURCE)
    assert elsewhere.parent != place.parent


@pytest.mark.usefixtures("compiled")
def test_many_at_once() -> None:
    """Threads of one process share the kernel; each has room of its own."""
    from concurrent.futures import ThreadPoolExecutor

    lengths = (20, 300, 7)
    q, k, v = tensors(lengths, 32, torch.float32)
    want = native.attend(q, k, v, lengths, scale=0.2)[0]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: native.attend(q, k, v, lengths, scale=0.2)[0], range(40)))
    assert all(np.array_equal(one.numpy(), want.numpy()) for one in found)
