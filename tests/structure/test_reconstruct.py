"""Least squares over what is left, against torch's own on the matrix written out."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from sparsam.errors import Refused
from sparsam.structure.ftpp import batch_means
from sparsam.structure.reconstruct import Products, Solved, System


def made(
    units: int = 4, width: int = 3, d: int = 6, t: int = 400, seed: int = 0, noise: float = 0.3
) -> tuple[torch.Tensor, ...]:
    """Inputs (t, a), wanted (t, d), weights (a, d), bias (d,): what is wanted is another map of the inputs, with noise."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    x = draw(t, units * width) + 0.5
    weight, bias = draw(units * width, d), draw(d)
    wanted = x @ (weight * (1 + 0.3 * draw(units * width, 1))) + bias + 0.2 + noise * draw(t, d)
    return x, wanted, weight, bias


def system(
    x: torch.Tensor, wanted: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, units: int, **more: bool
) -> System:
    products = Products.zeros(x.shape[1], wanted.shape[1])
    for part, goal in zip(x.split(64), wanted.split(64), strict=True):
        products.add(part, goal)
    return System(products, weight, bias, units, **more)


def test_full_is_least_squares_with_a_bias() -> None:
    """Without damping to speak of: torch.linalg.lstsq on the inputs with a column of ones."""
    x, wanted, weight, bias = made()
    found = system(x, wanted, weight, bias, 4).full(1e-9)
    exact = torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1), wanted).solution
    assert torch.allclose(found.weight, exact[:-1], atol=1e-4)
    assert torch.allclose(found.bias, exact[-1], atol=1e-4)
    assert found.after < found.before
    assert found.after == pytest.approx(
        float((x @ exact[:-1] + exact[-1] - wanted).square().sum(1).mean()), rel=1e-4
    )


def test_full_without_a_bias() -> None:
    """A product without a bias gets none."""
    x, wanted, weight, bias = made()
    found = system(x, wanted, weight, torch.zeros_like(bias), 4, has_bias=False).full(1e-9)
    assert torch.allclose(found.weight, torch.linalg.lstsq(x, wanted).solution, atol=1e-4)
    assert not found.bias.any()


@pytest.mark.parametrize("width", [1, 3])
def test_scales_are_least_squares_of_a_column_a_unit(width: int) -> None:
    """One column a unit, its contribution to all outputs of all tokens, written out."""
    x, wanted, weight, bias = made(units=5, width=width)
    columns = [
        (x[:, u * width : (u + 1) * width] @ weight[u * width : (u + 1) * width]).flatten() for u in range(5)
    ]
    exact = torch.linalg.lstsq(torch.stack(columns, 1), (wanted - bias).flatten()).solution
    found = system(x, wanted, weight, bias, 5).scaled(1e-9)
    assert found.scales is not None
    np.testing.assert_allclose(found.scales, exact.numpy(), atol=1e-4)
    assert torch.allclose(found.weight, weight * exact.repeat_interleave(width)[:, None], atol=1e-4)
    assert torch.equal(found.bias, bias)


def solutions(given: System) -> Iterator[Solved]:
    yield given.full()
    yield given.scaled()
    found = given.released()
    if found is not None:  # it gives up on systems that are singular
        yield found


def test_a_model_that_is_right_stays() -> None:
    """Teacher and student the same: scales of one, the weights as they were."""
    x, _, weight, bias = made()
    for found in solutions(system(x, x @ weight + bias, weight, bias, 4)):
        assert torch.allclose(found.weight, weight, atol=1e-4)
        assert torch.allclose(found.bias, bias, atol=1e-3)
        assert found.scales is None or np.allclose(found.scales, 1, atol=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_never_worse(seed: int) -> None:
    """Whatever the data, also fewer tokens than unknowns: the error afterwards is not larger."""
    x, wanted, weight, bias = made(units=8, width=2, t=(5, 40, 400)[seed % 3], seed=seed, noise=3.0)
    for found in solutions(system(x, wanted, weight, bias, 8)):
        assert found.after <= found.before


def test_more_freedom_fits_better() -> None:
    """All weights at once reach what one scale a unit cannot."""
    x, wanted, weight, bias = made()
    given = system(x, wanted, weight, bias, 4)
    assert given.full().after < given.scaled().after < given.scaled().before


def test_the_released_solver_gives_up() -> None:
    """A unit that would have to be scaled more than ten times stops it; ours is held there."""
    x, _, weight, bias = made(units=4, width=1)
    weight[2] *= 0.1
    wanted = x @ (weight * torch.tensor([1.0, 1.0, 60.0, 1.0])[:, None]) + bias
    given = system(x, wanted, weight, bias, 4)
    assert given.released() is None
    scales = given.scaled(1e-12).scales
    assert scales is not None and scales[2] == 10


def test_nothing_left_in_front_of_a_product() -> None:
    """No units at all: the bias alone takes what is wanted on average."""
    wanted = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double() + 2
    given = system(
        torch.zeros(50, 0).double(), wanted, torch.zeros(0, 3).double(), torch.zeros(3).double(), 0
    )
    found = given.full()
    assert found.weight.shape == (0, 3)
    assert torch.allclose(found.bias, wanted.mean(0), atol=1e-5)
    assert torch.equal(given.scaled().bias, given.bias)


def test_what_is_not_a_number_is_refused() -> None:
    """NaN in an activation."""
    x, wanted, weight, bias = made()
    x[3, 1] = float("nan")
    with pytest.raises(Refused, match="not numbers"):
        system(x, wanted, weight, bias, 4).full()


def test_batch_means() -> None:
    """Gradients of the mean loss of each batch, every sample once."""
    gradients = np.arange(70, dtype=np.float32)[:, None]
    found = batch_means(gradients, np.arange(70)[::-1], 32)
    assert found.shape == (2, 1)
    assert found.sum() == pytest.approx(gradients[35:].mean() + gradients[:35].mean())
