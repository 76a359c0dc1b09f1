"""Data loaders with samplers, batch samplers, streams and collate functions of the program's own."""

import textwrap

import pytest
from checking import checked, line_of, told

pytestmark = pytest.mark.slow

pytest.importorskip("torch")

HEAD = textwrap.dedent(
    """
    import argparse
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
    from torch.utils.data import *
    parser = argparse.ArgumentParser()
    parser.add_argument('--n', type=int, default=4)
    n = parser.parse_args().n
    data = TensorDataset(torch.zeros(n, 3), torch.zeros(n, dtype=torch.int64))
    class Ragged(Dataset):
        def __len__(self):
            return n
        def __getitem__(self, index):
            return torch.zeros(1 + index % 5, 3)
    """
)

RIGHT = {
    "weighted": """
        sampler = WeightedRandomSampler(torch.ones(n), num_samples=2 * n, replacement=True)
        for x, y in DataLoader(data, batch_size=4, sampler=sampler):
            assert x.shape[1:] == (3,) and len(x) <= 4
        assert len(DataLoader(data, batch_size=1, sampler=sampler)) == 2 * n
        """,
    "batches": """
        batches = BatchSampler(SequentialSampler(data), batch_size=4, drop_last=True)
        for x, y in DataLoader(data, batch_sampler=batches):
            assert x.shape == (4, 3) and y.shape == (4,)
        """,
    "joined": """
        both = ConcatDataset([data, TensorDataset(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))])
        assert len(both) == n + 2
        x, y = both[n + 1]
        assert x.shape == (3,)
        """,
    "subset": """
        order = torch.randperm(n).tolist()
        first, second = SubsetRandomSampler(order[:2]), Subset(data, [0, 1])
        for x, y in DataLoader(data, batch_size=2, sampler=first):
            assert x.shape == (2, 3)
        assert len(second) == 2
        for x, y in DataLoader(second, batch_size=2):
            assert x.shape == (2, 3)
        """,
    "split": """
        train, valid = random_split(data, [n - 2, 2])
        assert len(train) == n - 2
        for x, y in DataLoader(train, batch_size=3, shuffle=True):
            assert x.shape[1] == 3
        """,
    "own-sampler": """
        class Every(Sampler):
            def __init__(self, source):
                self.source = source
            def __iter__(self):
                return iter(range(len(self.source)))
            def __len__(self):
                return len(self.source)
        for x, y in DataLoader(data, batch_size=4, sampler=Every(data)):
            assert x.shape[1] == 3
        """,
    "stream": """
        class Stream(IterableDataset):
            def __iter__(self):
                for i in range(6):
                    yield torch.zeros(3), i
        count = 0
        for x, y in DataLoader(Stream(), batch_size=4):
            assert x.shape[1:] == (3,) and y.dtype == torch.int64
            count += 1
        """,
    "padded": """
        def collate(samples):
            lengths = torch.tensor([len(sample) for sample in samples])
            return pad_sequence(samples, batch_first=True), lengths
        rnn = torch.nn.GRU(3, 4, batch_first=True)
        def run(x, lengths):
            out, hidden = rnn(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
            out, _ = pad_packed_sequence(out, batch_first=True)
            assert out.shape[:2] == x.shape[:2] and out.shape[2] == 4 and hidden.shape == (1, len(x), 4)
        run(*collate([Ragged()[i] for i in range(3)]))
        """,
    "distributed": """
        from torch.utils.data.distributed import DistributedSampler
        sampler = DistributedSampler(data, num_replicas=1, rank=0)
        sampler.set_epoch(1)
        for x, y in DataLoader(data, batch_size=2, sampler=sampler):
            assert x.shape[1] == 3
        """,
    "mapping": """
        class Records(Dataset):
            def __len__(self):
                return n
            def __getitem__(self, index):
                return {'x': torch.zeros(3), 'name': str(index), 'pair': (1.0, index)}
        for batch in DataLoader(Records(), batch_size=4, pin_memory=True):
            assert batch['x'].shape[1] == 3 and batch['pair'][0].dtype == torch.float64
            assert len(batch['name']) == len(batch['x'])
        """,
}

WRONG = {
    "ragged": ("for x in DataLoader(Ragged(), batch_size=4):  # here\n    pass\n", "RuntimeError"),
    "lengths": ("random_split(data, [n, 2])  # here\n", "ValueError"),
    "both": ("DataLoader(data, shuffle=True, sampler=SequentialSampler(data))  # here\n", "ValueError"),
    "none": (
        "class A: pass\nfor x in DataLoader([A(), A()], batch_size=2):  # here\n    pass\n",
        "TypeError",
    ),
    "unequal": ("TensorDataset(torch.zeros(n, 3), torch.zeros(n + 1))  # here\n", "AssertionError"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_batches_have_the_sizes_they_would_have(name, tmp_path):
    """Assertions on the batches hold for every length."""
    report = checked(tmp_path, HEAD + textwrap.dedent(RIGHT[name]), "n=3..40")
    assert report.verdict.value == "proved", told(report)


@pytest.mark.parametrize("name", WRONG)
def test_loading_that_cannot_work_fails(name, tmp_path):
    """What the framework refuses is found at its line."""
    text, error = WRONG[name]
    report = checked(tmp_path, HEAD + text, "n=3..40", seconds=15)
    assert [finding.failure.error for finding in report.findings] == [error], told(report)
    assert report.findings[0].failure.place.line == line_of(HEAD + text, "# here")
