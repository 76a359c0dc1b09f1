"""NumPy and chance at the border of the framework: sizes stay symbols, numbers have the ranges they would have."""

import textwrap

import pytest
from checking import checked, line_of, told

torch = pytest.importorskip("torch")
pytest.importorskip("numpy")

HEAD = textwrap.dedent(
    """
    import argparse, random
    import numpy as np
    import torch
    parser = argparse.ArgumentParser()
    parser.add_argument('--n', type=int, default=4)
    n = parser.parse_args().n
    """
)

RIGHT = {
    "made": """
        for array, sizes in ((np.zeros((n, 3)), (n, 3)), (np.arange(n), (n,)), (np.full(n, 2.0), (n,)), (np.eye(n), (n, n)),
                             (np.linspace(0, 1, n), (n,)), (np.ones(n)[:, None], (n, 1)), (np.array([1.0] * 3 + [n]), (4,))):
            assert array.shape == sizes
        assert np.arange(n).dtype == np.int64 and np.zeros(n, dtype=np.float32).dtype == np.float32
        """,
    "changed": """
        x = np.random.randn(n, 6)
        assert np.sin(x / 2).astype('float32').dtype == np.float32
        assert x.reshape(n, 2, 3).transpose(2, 0, 1).shape == (3, n, 2)
        assert np.concatenate([x, x[:1]]).shape == (n + 1, 6) and np.stack([x, x], axis=1).shape == (n, 2, 6)
        assert x.mean(axis=1).shape == (n,) and np.sum(x, axis=0, keepdims=True).shape == (1, 6)
        assert (x @ np.ones((6, 2))).shape == (n, 2) and np.expand_dims(x, 0).shape == (1, n, 6)
        assert np.pad(x, ((1, 1), (0, 2))).shape == (n + 2, 8) and np.tile(x, (2, 1)).shape == (2 * n, 6)
        assert np.argmax(x, axis=1).shape == (n,) and np.prod(x.shape) == 6 * n and isinstance(x, np.ndarray)
        x[:, 0] = 1.0
        x[n - 1] += np.ones(6)
        """,
    "crossing": """
        x = torch.from_numpy(np.zeros((n, 3), dtype=np.float32))
        assert x.shape == (n, 3) and x.dtype == torch.float32
        assert x.numpy().shape == (n, 3) and torch.tensor(np.arange(n)).dtype == torch.int64
        assert torch.as_tensor(x.numpy()).shape == (n, 3) and torch.tensor([1.0, n]).shape == (2,)
        assert len(x.tolist()) == n and np.array(x).shape == (n, 3)
        assert torch.stack([torch.from_numpy(row) for row in x.numpy()]).shape == (n, 3)
        """,
    "real": """
        plain = np.arange(12).reshape(3, 4)
        assert plain.sum() == 66 and (plain[1] == [4, 5, 6, 7]).all() and np.sqrt(16) == 4
        assert torch.from_numpy(plain).shape == (3, 4) and torch.tensor(plain[:, 1]).shape == (3,)
        """,
    "chance": """
        assert 0 <= random.random() < 1 + 1e-9 and 3 <= random.randint(3, 7) <= 7 and random.randrange(n) < n
        assert random.choice(['a', 'b']) in ('a', 'b') and len(random.sample(range(10), 3)) == 3
        assert 0 <= np.random.randint(n) < n and np.random.rand(n, 2).shape == (n, 2)
        rng = np.random.default_rng(0)
        assert rng.integers(0, 5, n).shape == (n,) and rng.normal(size=(n, 2)).shape == (n, 2)
        values = list(range(10))
        random.shuffle(values)
        torch.manual_seed(random.randint(0, 1000))
        table = [0] * 10
        assert table[torch.randint(0, 10, (1,)).item()] == 0
        assert np.random.permutation(n).shape == (n,) and np.random.choice(5, n).shape == (n,)
        indices = np.random.permutation(n)[: n // 2]
        subset = torch.utils.data.SubsetRandomSampler(indices)
        data = torch.utils.data.TensorDataset(torch.zeros(n, 2))
        for (x,) in torch.utils.data.DataLoader(data, batch_size=2, sampler=subset):
            assert x.shape[1] == 2
        """,
    "mean": """
        losses = []
        for batch in torch.zeros(n, 2, 5).unbind(0):
            losses.append(batch.sum().item())
        if np.mean(losses) > 1:
            print(f'{np.mean(losses):.3f}')
        predictions = []
        for batch in torch.zeros(n, 2, 5).unbind(0):
            predictions.append(batch.numpy())
        assert np.concatenate(predictions).shape == (2 * n, 5)
        """,
}

WRONG = {
    "sum": ("np.zeros((n, 3)) + np.zeros((n, 4))  # here\n", "ValueError"),
    "gradient": ("torch.zeros(n, requires_grad=True).numpy()  # here\n", "RuntimeError"),
    "reshape": ("np.zeros((n, 3)).reshape(-1, 2)  # here\n", "ValueError"),
    "ragged": ("np.array([np.zeros(n), np.zeros(n + 1)])  # here\n", "ValueError"),
    "double": ("torch.nn.Linear(3, 2)(torch.from_numpy(np.random.rand(n, 3)))  # here\n", "RuntimeError"),
    "no-array": ("torch.from_numpy(torch.zeros(n))  # here\n", "TypeError"),
    "choice": ("random.choice([torch.zeros(2), torch.zeros(3)]).view(2)  # here\n", "RuntimeError"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_arrays_have_the_sizes_they_would_have(name, tmp_path):
    """Assertions on sizes, types and ranges hold for every n."""
    report = checked(tmp_path, HEAD + textwrap.dedent(RIGHT[name]), "n=4..64")
    assert report.verdict.value == "proved", told(report)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls_of_numpy_fail(name, tmp_path):
    """What NumPy or the framework would refuse is found at its line."""
    text, error = WRONG[name]
    report = checked(tmp_path, HEAD + text, "n=4..64")
    assert [finding.failure.error for finding in report.findings] == [error], told(report)
    assert report.findings[0].failure.place.line == line_of(HEAD + text, "# here")
