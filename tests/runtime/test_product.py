"""Prepacked products against torch's own linear."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN

from sparsam.runtime.product import FUSED, Product, activation_name, prepacks

APPLY = {
    "none": lambda x: x,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
}


@pytest.fixture(autouse=True)
def without_gradients():
    """As the runtime runs."""
    with torch.inference_mode():
        yield


def made(o: int, i: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and bias."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(o, i, generator=generator) / max(i, 1) ** 0.5, torch.randn(o, generator=generator)


@pytest.mark.parametrize("activation", FUSED)
@pytest.mark.parametrize("prepacked", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_linear_then_activation(activation: str, prepacked: bool, with_bias: bool) -> None:
    """In float32 to 1e-5, with and without a residual, laid out or not."""
    if prepacked and not prepacks(torch.float32):
        pytest.skip("this build of torch has no prepacked products")
    weight, bias = made(12, 7)
    bias = bias if with_bias else None
    product = Product(weight, bias, torch.float32, activation, prepacked)
    assert product.prepacked is prepacked
    for rows in (1, 5, 33):
        x, residual = torch.randn(rows, 7), torch.randn(rows, 12)
        wanted = APPLY[activation](F.linear(x, weight, bias))
        before = residual.clone()
        torch.testing.assert_close(product(x), wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(product(x, residual), wanted + residual, atol=1e-5, rtol=1e-5)
        assert torch.equal(residual, before)


def test_bfloat16_is_within_its_rounding() -> None:
    """Eight bits of a float32 product of the rounded weights."""
    weight, bias = made(24, 64)
    x = torch.randn(9, 64).bfloat16()
    wanted = F.linear(x.float(), weight.bfloat16().float(), bias.bfloat16().float())
    found = Product(weight, bias, torch.bfloat16)(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, atol=2e-2, rtol=1e-2)


@pytest.mark.parametrize("shape", [(4, 0), (0, 4)])
def test_nothing_to_multiply(shape: tuple[int, int]) -> None:
    """Without inputs only the bias is left; without outputs nothing is."""
    weight, bias = made(*shape)
    found = Product(weight, bias, torch.float32)(torch.randn(3, shape[1]))
    torch.testing.assert_close(found, bias.expand(3, -1))


def test_several_linears_of_one_input_are_one_product() -> None:
    """Their outputs lie side by side; a missing bias counts as 0."""
    linears = [nn.Linear(6, 4), nn.Linear(6, 3, bias=False)]
    x = torch.randn(5, 6)
    wanted = torch.cat([module(x) for module in linears], 1)
    torch.testing.assert_close(Product.of(linears, torch.float32)(x), wanted)


def test_the_weights_are_a_copy() -> None:
    """What becomes of the module afterwards does not matter."""
    linear, x = nn.Linear(6, 4), torch.randn(5, 6)
    product = Product.of([linear], torch.float32, "gelu")
    before = product(x)
    linear.weight.zero_()
    linear.bias.zero_()
    assert torch.equal(product(x), before)


@pytest.mark.parametrize("name", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "quick_gelu", "silu"])
def test_a_named_activation_is_the_module_it_was_named_for(name: str) -> None:
    """What is fused gives the module's own numbers; what is not known is not fused."""
    module = ACT2FN[name]
    found = activation_name(module)
    if found is None:
        assert name in ("quick_gelu", "silu")
        return
    x = torch.linspace(-6, 6, 101)
    torch.testing.assert_close(APPLY[found](x), module(x), atol=1e-5, rtol=1e-5)


def test_an_unknown_activation_is_refused() -> None:
    """Named, with those there are."""
    with pytest.raises(ValueError, match="activation is one of none, relu, gelu, gelu-tanh; got 'selu'"):
        Product(*made(2, 2), torch.float32, "selu")
