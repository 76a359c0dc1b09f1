"""Hand-written rules against plain torch: the same sizes and dtype, or the same exception, for sampled sizes."""

import copy
import os
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from sparsam.shapes import operators
from sparsam.shapes.checker import prepare, substituted
from sparsam.shapes.environment import Unknown
from sparsam.shapes.places import Places
from sparsam.shapes.run import Run, execute

LONG = pytest.mark.skipif(
    os.environ.get("SPARSAM_LONG") != "1", reason="takes minutes; SPARSAM_LONG=1 asks for it"
)

PLACES = Places(lambda file: file == __file__)


def sized(*shapes: str, low: int = 0, high: int = 6) -> Callable[[random.Random], list[Any]]:
    """Shapes of tensors: of each letter a random size, of each digit itself."""

    def make(rng: random.Random) -> list[Any]:
        sizes: dict[str, int] = {}
        return [
            [int(c) if c.isdigit() else sizes.setdefault(c, rng.randint(low, high)) for c in shape]
            for shape in shapes
        ]

    return make


def bent(
    shapes: Callable[[random.Random], list[Any]], chance: float = 0.15
) -> Callable[[random.Random], list[Any]]:
    """The same with some sizes changed, so that some calls are wrong."""

    def make(rng: random.Random) -> list[Any]:
        return [[n if rng.random() > chance else rng.randint(0, 5) for n in shape] for shape in shapes(rng)]

    return make


def amounts(rng: random.Random, count: int, low: int = -3, high: int = 3) -> list[int]:
    """Random whole numbers."""
    return [rng.randint(low, high) for _ in range(count)]


def window(rng: random.Random) -> dict[str, Any]:
    """Settings of a short Fourier transform."""
    points = rng.choice([4, 6, 8])
    return {
        "n_fft": points, "hop_length": rng.choice([None, 1, 3]), "center": rng.random() < 0.5,
        "pad_mode": rng.choice(["reflect", "constant"]), "onesided": rng.random() < 0.7, "return_complex": rng.random() < 0.7,
    }  # fmt: skip


# Name: shapes, and a maker of the call from a source of chance.
CASES: dict[str, tuple[Callable[[random.Random], list[Any]], Callable[[random.Random], Callable[..., Any]]]] = {
    "pad": (sized("abc"), lambda r: (lambda p: lambda x: F.pad(x, p))(amounts(r, r.choice([2, 4, 6])))),
    "pad too much": (sized("ab"), lambda r: (lambda p: lambda x: F.pad(x, p))(amounts(r, r.choice([1, 4, 6])))),
    "nearest": (sized("abc"), lambda r: (lambda f: lambda x: F.interpolate(x, scale_factor=f))(r.choice([2, 0.5, 1.7, 0.3]))),
    "bilinear": (sized("abcd"), lambda r: (lambda n: lambda x: F.interpolate(x, n, mode="bilinear"))((r.randint(0, 5), 3))),
    "trilinear": (
        sized("abcde", high=4),
        lambda r: (lambda f: lambda x: F.interpolate(x, scale_factor=f, mode="trilinear"))(r.choice([2, 0.5, 1.5])),
    ),
    "bicubic": (sized("abcd"), lambda r: lambda x: F.interpolate(x, scale_factor=2.0, mode="bicubic", align_corners=True)),
    "wrong mode": (sized("abc"), lambda r: lambda x: F.interpolate(x, scale_factor=2, mode=r.choice(["bilinear", "what"]))),
    "baddbmm": (bent(sized("bnp", "bnm", "bmp")), lambda r: torch.baddbmm),
    "baddbmm, broadcast": (bent(sized("1p", "bnm", "bmp")), lambda r: torch.baddbmm),
    "addbmm": (bent(sized("np", "bnm", "bmp")), lambda r: torch.addbmm),
    "addcmul": (bent(sized("bn", "bn", "1n")), lambda r: lambda x, y, z: torch.addcmul(x, y, z, value=0.5)),
    "addcdiv": (bent(sized("bn", "n", "bn")), lambda r: torch.addcdiv),
    "bilinear form": (bent(sized("bm", "bn", "omn", "o")), lambda r: F.bilinear),
    "diag": (sized("ab"), lambda r: (lambda k: lambda x: torch.diag(x, k))(r.randint(-3, 3))),
    "diagonal_copy": (sized("abc"), lambda r: lambda x: torch.diagonal_copy(x, 1, 0, 2)),
    "permute_copy": (sized("abc"), lambda r: lambda x: torch.permute_copy(x, (2, 0, 1))),
    "split": (sized("ab"), lambda r: (lambda n: lambda x: torch.split(x, n))(amounts(r, 2, 0, 3))),
    "stft": (sized("bt", high=24), lambda r: (lambda s: lambda x: torch.stft(x, **s))(window(r))),
    "stft of one": (sized("t", high=24), lambda r: (lambda s: lambda x: torch.stft(x, **s))(window(r))),
    "equal": (bent(sized("ab", "ab")), lambda r: lambda x, y: [x, y][x.shape == y.shape and not torch.equal(x, y)]),
    "ctc": (
        bent(sized("tb7", "bs", "b", "b", low=1)),
        lambda r: lambda p, t, i, j: F.ctc_loss(p, t.long() + 1, (i * 0 + p.shape[0]).long(), (j * 0 + t.shape[-1]).long()),
    ),
    "view": (sized("abc", low=1), lambda r: (lambda n: lambda x: x.transpose(0, 1).view(n, -1))(r.randint(1, 4))),
    "embedding": (sized("vd", "i"), lambda r: lambda w, i: F.embedding(i.long(), w)),
    "index_select": (sized("abc", "i"), lambda r: (lambda d: lambda x, i: x.index_select(d, i.long()))(r.randint(0, 2))),
    "empty kernel": (bent(sized("1ct", "ock", low=1)), lambda r: lambda x, w: F.conv1d(x, w, padding=2)),
    "batch norm": (
        bent(sized("bch", "c", "c", "c", "c")),
        lambda r: (lambda t: lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b, training=t))(r.random() < 0.7),
    ),
    "batch norm of vectors": (bent(sized("bc", "c")), lambda r: lambda x, w: F.batch_norm(x, None, None, w, training=True)),
    "batch norm's statistics": (
        sized("bchw", "c", low=1),
        lambda r: (lambda t: lambda x, m: torch.native_batch_norm(x, m, None, m, m, t, 0.1, 1e-5))(r.random() < 0.5),
    ),
    "average over all": (sized("bchw"), lambda r: lambda x: F.avg_pool2d(x, x.shape[2:])),
    "average windows": (
        sized("bchw", high=9),
        lambda r: (lambda s, p, c, a: lambda x: F.avg_pool2d(x, (x.shape[1], 2), s, p, c, a))(
            r.choice([1, 2, 3]), r.choice([0, 1, 2]), r.random() < 0.5, r.random() < 0.5
        ),
    ),
    "average of a signal": (sized("bct"), lambda r: lambda x: F.avg_pool1d(x, x.shape[-1], stride=x.shape[0])),
    "largest of all": (
        sized("bchw"),
        lambda r: (lambda i: lambda x: F.max_pool2d(x, kernel_size=x.size()[2:], return_indices=i))(r.random() < 0.5),
    ),
    "largest in windows": (
        sized("cdhw", high=9),
        lambda r: (lambda s, p, d, c: lambda x: F.max_pool3d(x, (x.shape[0], 2, 1), s, p, d, c))(
            r.choice([1, 2, 3]), r.choice([0, 1]), r.choice([1, 2]), r.random() < 0.5
        ),
    ),
    "largest of a signal": (sized("bct"), lambda r: lambda x: F.max_pool1d(x, x.shape[2]).squeeze(2)),
    "fourier": (sized("abc"), lambda r: (lambda d: lambda x: torch.fft.ifft2(torch.fft.fft2(x, dim=d)))((0, r.randint(1, 2)))),
    "fourier of reals": (sized("abc"), lambda r: lambda x: torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[-2:])),
    "half of the frequencies": (sized("abc"), lambda r: lambda x: [torch.fft.hfft(torch.fft.rfft(x)), torch.fft.ihfft(x)]),
    "combinations": (
        sized("n"),
        lambda r: (lambda n, again: lambda x: torch.combinations(x, n, again))(r.randint(0, 4), r.random() < 0.5),
    ),
    "one-hot": (sized("ab"), lambda r: lambda x: F.one_hot(x.long())),
    "affine grid": (bent(sized("b23", "bchw")), lambda r: lambda m, x: F.affine_grid(m, x.size(), align_corners=False)),
    "affine grid in space": (bent(sized("b34", "bcdhw")), lambda r: lambda m, x: F.affine_grid(m, x.shape, align_corners=True)),
    "factor recomputed": (
        sized("bchw"),
        lambda r: (lambda f: lambda x: F.interpolate(x, scale_factor=f, recompute_scale_factor=True))(r.choice([0.5, 1.7, 2])),
    ),
    "deep copy": (sized("ab"), lambda r: lambda x: copy.deepcopy([x, x])),
    "one-hot of so many": (sized("ab"), lambda r: lambda x: F.one_hot(x.long(), x.shape[0])),
    "chunk cat": (sized("ab", "ab"), lambda r: lambda x, y: torch._chunk_cat([x, y], 0, 2)),
}  # fmt: skip


# Name: shapes, and a call whose result lies somehow in memory.


def tried(call: Callable[..., Any], *args: Any) -> Any:
    """What a call gives, nothing where it is refused."""
    try:
        return call(*args)
    except RuntimeError:
        return []


LAYOUTS: dict[str, tuple[Callable[[random.Random], list[Any]], Callable[..., Any]]] = {
    "view": (sized("abc"), lambda x: x.view(x.shape[0] * x.shape[1], x.shape[2])),
    "view of as many": (bent(sized("ab", "ba")), lambda x, y: x.view(y.shape)),
    "view of the rest": (sized("abc"), lambda x: x.view(x.shape[0], -1)),
    "view of a part": (sized("abc"), lambda x: x[:, 1:].view(-1, x.shape[2])),
    "view of a turned one": (sized("abc"), lambda x: x.transpose(1, 2).view(-1, x.shape[1])),
    "view of one": (sized("a"), lambda x: x.view(1, -1, 1)),
    "flattened": (sized("abc"), lambda x: x.permute(2, 0, 1).flatten(1)),
    "flattened in part": (
        sized("abcd"),
        lambda x: (
            x.transpose(1, 2).flatten(2), x.permute(2, 0, 3, 1).flatten(1, 2), x.flatten(1, -2), x.flatten(end_dim=1),
            torch.flatten(x.transpose(2, 3), start_dim=-3), x.flatten(2, 2),
        ),
    ),
    "flattened the wrong way": (sized("abc"), lambda x: x.flatten(2, 1)),
    "reshaped": (sized("abc"), lambda x: x.reshape(-1, x.shape[1]) + 1),
    "unflattened": (sized("ab"), lambda x: x.unflatten(1, (-1, 2))),
    "new dimensions": (sized("ab"), lambda x: (x[None, :, None, :], x.unsqueeze(-1), x.t().unsqueeze(1), x[..., None, None])),
    "expanded": (bent(sized("a1c", "abc")), lambda x, y: (x.expand(y.shape), x.expand(2, -1, y.shape[1], -1), x.expand_as(y))),
    "expanded too far": (sized("ab"), lambda x: x.expand(-1, -1, -1)),
    "expanded back": (sized("ab"), lambda x: x.expand(-1, x.shape[1], 3)),
    "sum": (bent(sized("abc", "bc")), lambda x, y: x + y),
    "sum of one row": (bent(sized("ab", "1b")), lambda x, y: (x + y, y * x, x - y[0])),
    "sum of the turned": (sized("abc", "cba"), lambda x, y: x.transpose(0, 2) + y),
    "sum of two turned": (sized("abc", "abc"), lambda x, y: x.transpose(0, 2) + y.transpose(0, 2)),
    "sum of a turned and a plain one": (sized("abc", "cba"), lambda x, y: (y + x.permute(2, 1, 0), x.permute(2, 1, 0) + y)),
    "outer": (sized("a", "b"), lambda x, y: (x[:, None] * y[None], y[None] < x[:, None], (x[:, None] + y).contiguous())),
    "outer in space": (sized("a", "b", "c"), lambda x, y, z: x[:, None, None] + y[:, None] + z),
    "outer the other way": (sized("a", "b"), lambda x, y: x * y[:, None]),
    "halves": (sized("abc", "abc"), lambda x, y: x[:, ::2] + y[:, ::2]),
    "chosen": (
        sized("bc", "abc"),
        lambda m, x: (torch.where(m > 0, x, -1.0), x.masked_fill(m > 0, 2.0), torch.where(m > 0, 1.0, x)),
    ),
    "chosen of the turned": (
        sized("abc", "abc"),
        lambda m, x: torch.where(m > 0, x, x).transpose(0, 1).masked_fill(m.transpose(0, 1) > 0, 0),
    ),
    "like": (
        sized("abc"),
        lambda x: (torch.empty_like(x.transpose(0, 1)), torch.zeros_like(x[:, :1]), x.new_empty(x.shape)),
    ),
    "like an expanded one": (sized("a", "b"), lambda x, y: torch.ones_like(x[:, None].expand(-1, y.shape[0]))),
    "copied": (sized("abc"), lambda x: (x.transpose(0, 1).clone(), x.permute(2, 0, 1).contiguous(), x[:, :, ::2].double())),
    "norm": (bent(sized("abc", "c", "c")), lambda x, w, b: F.layer_norm(x, (w.shape[0],), w, b)),
    "mean that is kept": (sized("abc"), lambda x: x - x.mean(1, keepdim=True) + x.sum((0, 2), keepdim=True)),
    "variance that is kept": (sized("abc", low=2), lambda x: x / x.std(-1, keepdim=True)),
    "softmax": (sized("abc"), lambda x: x.transpose(0, 2).softmax(-1)),
    "linear": (bent(sized("abc", "dc", "d")), F.linear),
    "products": (
        sized("abc", "acd"),
        lambda x, y: (torch.bmm(x, y).transpose(0, 1), x @ y, (x @ y).transpose(1, 2).flatten(1)),
    ),
    "colours last": (sized("abcd"), lambda x: (x.contiguous(memory_format=torch.channels_last) * 2).relu()),
    "one found": (sized("abc"), lambda x: (x[0:1] + x[:, 0:1] + x[..., 0:1] if 0 not in x.shape else x)),
    "matrices": (
        sized("abcd"),
        lambda x: (x.transpose(1, 2) @ x.permute(0, 2, 3, 1), torch.matmul(x, x.transpose(2, 3))),
    ),
    "heads": (
        sized("abcd"),
        lambda x: (
            x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1),
            x.permute(0, 2, 3, 1).reshape(x.shape[0] * x.shape[2], x.shape[3], x.shape[1]),
            x.permute(3, 2, 1, 0).reshape(x.shape[3] * x.shape[2], x.shape[0] * x.shape[1]),
            x.transpose(2, 3).reshape(x.shape[0], -1, 1, x.shape[2]),
            x.permute(1, 0, 3, 2).flatten(),
        ),
    ),
    "sums of products": (
        sized("abcd", "abed"),
        lambda x, y: (
            torch.einsum("abcd,abed->abce", x, y),
            torch.einsum("abcd,abed->ebac", x, y),
            torch.einsum("abcd, abed -> ce", x, y),
        ),
    ),
    "bridged": (
        sized("ab"),
        lambda x: [
            tried(y.view, *shape)
            for y in (x.new_empty(3, 2, x.shape[0]).unfold(-2, 2, 2), x.new_empty(2, x.shape[0], 1, 3).transpose(1, 3))
            for shape in (
                (3 * y.shape[2], -1),
                (y.shape[0], -1),
                (y.shape[0] * y.shape[1], y.shape[2], y.shape[3]),
                (y.shape[0], y.shape[1], y.shape[2] * y.shape[3]),
            )
        ],
    ),
    "folded": (sized("abc", "cd"), lambda x, w: (x.permute(1, 0, 2) @ w, F.linear(x.transpose(0, 1), w.t()))),
    "put in order": (
        sized("abc"),
        lambda x: (x.transpose(0, 1).contiguous(), x[1:].contiguous(), x.expand(2, -1, -1, -1).contiguous()),
    ),
    "transposed": (sized("abc", "acb"), lambda x, y: (x.transpose(1, 2) * y, y + x.transpose(1, 2), x.permute(2, 0, 1).exp())),
    "compared": (sized("ab", "b"), lambda x, y: x.t().eq(y.view(-1, 1).expand(-1, x.shape[0]))),
    "rows in a row": (
        lambda rng: [[rng.randint(0, 3)]],
        lambda x: [
            part[:k].reshape(-1)
            for part in (
                x.new_empty(x.shape[0], 5).t(),
                x.new_empty(5, x.shape[0]),
                x.new_empty(x.shape[0], 5, 2).permute(1, 2, 0),
            )
            for k in (1, 3, 5)
        ],
    ),
    "flat": (
        lambda rng: [[rng.randint(0, 3)]],
        lambda x: [
            part.flatten()
            for n in (1, 2)
            for part in (
                x.new_empty(x.shape[0], n, 4).transpose(0, 2),
                x.new_empty(n, x.shape[0], 4)[..., 1:3],
                x.new_empty(4, n, x.shape[0])[::2],
            )
        ],
    ),
    "squeezed": (sized("a1c"), lambda x: (x.squeeze(1), x.transpose(0, 1).squeeze(0) + 1)),
}  # fmt: skip


def lies(value: Any) -> Any:
    """Sizes of a result, and strides along dimensions of more than one, with plain numbers; nothing of empty ones."""
    if isinstance(value, torch.Tensor):
        sizes, strides = (
            [int(n.node.hint) if isinstance(n, torch.SymInt) else n for n in numbers]
            for numbers in (value.shape, value.stride())
        )
        counted = [stride for size, stride in zip(sizes, strides, strict=True) if size > 1]
        return sizes, [] if 0 in sizes else counted
    return [lies(part) for part in value]


def seen(value: Any) -> Any:
    """Sizes and dtypes of a result, with plain numbers."""
    if isinstance(value, torch.Tensor):
        sizes = tuple(s.node.hint if isinstance(s, torch.SymInt) else s for s in value.shape)
        return tuple(int(s) for s in sizes), value.dtype
    return tuple(seen(part) for part in value)


def by_torch(call: Callable[..., Any], shapes: list[Any], seen: Callable[[Any], Any] = seen) -> Any:
    """What plain torch makes of it."""
    try:
        return seen(call(*[torch.zeros(shape) for shape in shapes]))
    except Exception as error:
        return type(error).__name__


def by_rule(call: Callable[..., Any], shapes: list[Any], seen: Callable[[Any], Any] = seen) -> Any:
    """What the checker makes of it, every size a symbol."""
    found: list[Any] = []
    hints = {f"n{i}{j}": size for i, shape in enumerate(shapes) for j, size in enumerate(shape)}

    def entry(run: Run) -> None:
        tensors = [
            torch.empty([run.shapes.declare(Unknown(f"n{i}{j}")) for j in range(len(shape))])
            for i, shape in enumerate(shapes)
        ]
        found.append(seen(call(*tensors)))

    outcome = execute(entry, hints, PLACES, operators.rules())
    assert not any(literal.specialised for literal in outcome.literals), outcome.literals
    assert not any(unknown.code == "crash" for unknown in outcome.unknowns), outcome.notes
    if outcome.ending == "end":
        return found[0]
    return outcome.failure.error if outcome.ending in ("error", "raise") else outcome.unknowns


def agrees(name: str, count: int, seed: int) -> tuple[int, int]:
    """Compares so many samples; says how many torch takes and refuses."""
    shapes, make = CASES[name]
    rng = random.Random(f"{name} {seed}")
    taken = 0
    with substituted():
        for _ in range(count):
            given = shapes(rng)
            state = rng.getstate()
            call = make(rng)
            expected = by_torch(call, given)
            rng.setstate(state)
            assert by_rule(make(rng), given) == expected, (name, given, expected)
            taken += not isinstance(expected, str)
    return taken, count - taken


@pytest.mark.parametrize("name", LAYOUTS)
def test_results_lie_as_torch_s_do(name):
    """Strides are those of torch, for sizes of 0 and 1, too, where the framework's own rules are not asked."""
    shapes, call = LAYOUTS[name]
    rng = random.Random(name)
    with substituted():
        for _ in range(16):
            given = [[min(n, 3) for n in shape] for shape in shapes(rng)]
            assert by_rule(call, given, lies) == by_torch(call, given, lies), (name, given)


def cases_of(call: Callable[..., Any], shapes: list[str]) -> int:
    """How much is asked of the sizes of a call."""

    def entry(run: Run) -> None:
        call(*[torch.empty([run.shapes.declare(Unknown(letter)) for letter in shape]) for shape in shapes])

    with substituted():
        outcome = execute(
            entry, {letter: 3 + number for number, letter in enumerate("abcd")}, PLACES, operators.rules()
        )
    assert outcome.ending == "end", outcome.failure
    return sum(literal.kind == "guard" for literal in outcome.literals)


UNASKED = {
    "view": (["abc"], lambda x: x.view(x.shape[0], x.shape[1] * x.shape[2])),
    "sum": (["abc", "bc", "c"], lambda x, y, z: (x + y) * z - 1),
    "masked": (["abc", "bc"], lambda x, m: x.masked_fill(m > 0, 0.0).softmax(-1)),
    "linear": (["abc"], lambda x: F.relu(F.linear(x, x.new_empty(4, x.shape[2]), x.new_empty(4)))),
    "norm": (["abc"], lambda x: F.layer_norm(x, (x.shape[2],))),
    "heads put together": (
        ["abc"],
        lambda x: F.linear(
            x.new_empty(*x.shape, 8).transpose(1, 2).flatten(2),
            x.new_empty(4, 8 * x.shape[1]),
            x.new_empty(4),
        ),
    ),
    "put in order": (
        ["abc"],
        lambda x: x.transpose(0, 1).contiguous().view(x.shape[1], x.shape[0] * x.shape[2]),
    ),
    "chance": (["ab"], lambda x: torch.randn_like(x) + torch.rand_like(x) * F.dropout(x)),
    "attention": (
        ["abcd"],
        lambda x: torch.matmul((x.transpose(1, 2) @ x.permute(0, 2, 3, 1)).softmax(-1), x.transpose(1, 2)),
    ),
    "heads": (
        ["abc"],
        lambda x: (
            (x.new_empty(*x.shape, 8) * 2).transpose(1, 2).reshape(x.shape[0], x.shape[2], x.shape[1] * 8) * 2
        ),
    ),
    "sums of products": (["abcd", "abcd"], lambda x, y: torch.einsum("bhid,bhjd->bhij", x, y.clone()) * 2),
    "folded": (["abc"], lambda x: F.linear(x.transpose(0, 1), x.new_empty(3, x.shape[2]), x.new_empty(3))),
    "loss": (["abc", "abc"], lambda x, y: F.mse_loss(x, y) + F.smooth_l1_loss(x, y)),
    "transposed": (["abc", "acb"], lambda x, y: x.transpose(1, 2) * y),
    "accuracy": (
        ["a"],
        lambda x: [
            x.new_empty(x.shape[0], 5)
            .t()
            .eq(x.view(1, -1).expand(5, -1))[:k]
            .reshape(-1)
            .float()
            .sum(0, keepdim=True)
            for k in (1, 5)
        ],
    ),
    "products": (["abc", "acd"], lambda x, y: torch.bmm(x, y) * 2),
}


@pytest.mark.parametrize("name", UNASKED)
def test_what_makes_no_difference_is_not_asked(name):
    """No case is split where a size of 0 or 1 goes the same way as any other."""
    shapes, call = UNASKED[name]
    assert cases_of(call, shapes) == 0


@pytest.fixture(scope="module", autouse=True)
def ready():
    """Imports of the first run are no part of a test."""
    prepare()


@pytest.mark.parametrize("name", CASES)
def test_rule_agrees_with_torch(name):
    """For twelve samples of each."""
    agrees(name, 12, 0)


@LONG
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_rule_agrees_with_torch_for_many_sizes(name):
    """For two hundred samples of each, of which some must be taken."""
    taken, _ = agrees(name, 200, 1)
    assert taken or name in ("wrong mode",)
