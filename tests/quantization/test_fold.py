"""BatchNorm folded into products: functions stay, pairs that are none stay, and what cannot be folded is refused by name."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsam.errors import Refused
from sparsam.quantization.fold import fold_batch_norm, folded


def lived(model: Any) -> Any:
    """A model in evaluation whose norms have seen something, with weights and biases that are not one and zero."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            if module.running_mean is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.1, 4.0)
            if module.weight is not None:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model.eval()


def refused(call: Any) -> str:
    with pytest.raises(Refused) as caught:
        call()
    assert caught.value.code == "fold"
    return str(caught.value)


PAIRS = [
    (lambda: nn.Linear(6, 8), lambda: nn.BatchNorm1d(8), (5, 6)),
    (lambda: nn.Linear(6, 8, bias=False), lambda: nn.BatchNorm1d(8, affine=False), (5, 6)),
    (lambda: nn.Conv1d(6, 8, 3), lambda: nn.BatchNorm1d(8), (2, 6, 9)),
    (lambda: nn.Conv2d(6, 8, 3, padding=1, bias=False), lambda: nn.BatchNorm2d(8), (2, 6, 9, 9)),
    (lambda: nn.Conv2d(6, 8, 3, groups=2, stride=2), lambda: nn.BatchNorm2d(8, eps=0.1), (2, 6, 9, 9)),
    (lambda: nn.Conv2d(6, 6, 3, groups=6), lambda: nn.BatchNorm2d(6), (2, 6, 9, 9)),
    (lambda: nn.Conv3d(2, 4, 2), lambda: nn.BatchNorm3d(4), (2, 2, 4, 4, 4)),
    (lambda: nn.ConvTranspose2d(6, 8, 3), lambda: nn.BatchNorm2d(8), (2, 6, 5, 5)),
    (lambda: nn.ConvTranspose2d(6, 8, 3, groups=2, bias=False), lambda: nn.BatchNorm2d(8), (2, 6, 5, 5)),
]


@pytest.mark.parametrize(("product", "norm", "shape"), PAIRS)
def test_a_pair_becomes_one_product(product: Any, norm: Any, shape: tuple[int, ...]) -> None:
    """Every kind of product, with and without biases, groups and affine norms: outputs within 1e-5, no norm left."""
    model, x = lived(nn.Sequential(product(), norm())), torch.randn(shape)
    small, names = fold_batch_norm(model, x)
    assert names == ("1",) and isinstance(small[1], nn.Identity)  # type: ignore[index]
    wanted, found = model(x), small(x)
    assert float((found - wanted).detach().abs().max() / wanted.abs().max()) < 1e-5
    weight, bias = folded(model[0], model[1])
    assert torch.equal(weight, small[0].weight) and torch.equal(bias, small[0].bias)  # type: ignore[index]
    assert isinstance(model[1], nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)  # the model is as it was


class Tree(nn.Module):
    """Pairs, and what looks like pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.twice, self.twice_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.read, self.read_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.behind, self.late = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.tied, self.tied_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.tied_too = nn.Conv2d(4, 4, 1)
        self.tied_too.weight = self.tied.weight
        self.alias = self.stem_norm

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.alias(self.stem(x)))
        x = self.twice_norm(self.twice(self.twice(x)))  # applied twice
        y = self.read(x)
        x = self.read_norm(y) + y  # its output is read by somebody else
        x = self.late(F.relu(self.behind(x)))  # something lies between
        out: Tensor = self.tied_norm(self.tied(x)) + self.tied_too(x)
        return out


def test_only_certain_pairs_are_folded() -> None:
    """A product used twice, an output read twice, an activation between, a shared weight: such norms stay, as the function."""
    model, x = lived(Tree()), torch.randn(2, 3, 6, 6)
    small, names = fold_batch_norm(model, x)
    assert names == ("stem_norm",)
    assert isinstance(small.stem_norm, nn.Identity) and isinstance(small.alias, nn.Identity)
    wanted = model(x)
    assert float((small(x) - wanted).detach().abs().max() / wanted.abs().max()) < 1e-5


def test_a_linear_layer_s_norm_wants_an_example() -> None:
    """Of (b, n, c) the norm's channels are n, even where there are as many; without an example it stays."""
    model = lived(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)))
    assert fold_batch_norm(model)[1] == ()
    assert fold_batch_norm(model, torch.randn(3, 8, 4))[1] == ()
    assert fold_batch_norm(model, torch.randn(3, 4))[1] == ("1",)


def test_what_cannot_be_folded_is_refused() -> None:
    """Training, norms that depend on their input, other widths, no statistics, NaN, forward passes that cannot be traced."""
    conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    assert "eval()" in refused(lambda: fold_batch_norm(nn.Sequential(conv, norm)))
    assert "eval()" in refused(lambda: folded(conv, norm))
    conv, norm = conv.eval(), norm.eval()
    assert "LayerNorm" in refused(lambda: folded(conv, nn.LayerNorm(4).eval()))
    assert "GroupNorm" in refused(lambda: folded(conv, nn.GroupNorm(2, 4).eval()))
    assert "ReLU" in refused(lambda: folded(nn.ReLU().eval(), norm))
    assert "5 channels" in refused(lambda: folded(conv, nn.BatchNorm2d(5).eval()))
    assert "track_running_stats" in refused(
        lambda: folded(conv, nn.BatchNorm2d(4, track_running_stats=False).eval())
    )
    broken = nn.BatchNorm2d(4).eval()
    assert broken.running_var is not None
    broken.running_var[1] = float("nan")
    assert "statistics" in refused(lambda: folded(conv, broken))

    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    assert "cannot be traced" in refused(lambda: fold_batch_norm(Branches().eval()))


def test_a_norm_without_statistics_stays() -> None:
    """It works out those of each batch, in evaluation too; nothing is folded and nothing changes."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    small, names = fold_batch_norm(model)
    x = torch.randn(2, 3, 4, 4)
    assert names == () and torch.equal(small(x), model(x))
