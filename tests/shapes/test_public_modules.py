"""Kinds of lines of public modules that once were unknown or a false alarm."""

import textwrap

import pytest
from checking import checked, told

from sparsam.shapes.check import Limits, check
from sparsam.shapes.verdict import Verdict

pytestmark = pytest.mark.slow

pytest.importorskip("torch")

LINES = {
    "parameters of a distribution": "torch.distributions.Normal(x, x.exp()).rsample() + x",
    "a choice by its odds": "x + torch.distributions.Categorical(logits=x).sample().unsqueeze(-1)",
    "the largest of all": "F.max_pool2d(x, kernel_size=x.size()[2:]).view(x.size(0), 4)",
    "the average of all": "F.avg_pool2d(x, x.shape[2:]).view(len(x), 4)",
    "a filter in the frequencies": "torch.fft.irfft2(torch.fft.rfft2(x) * 2, s=x.shape[-2:]) + x",
    "a grid": "F.grid_sample(x, F.affine_grid(torch.zeros(len(x), 2, 3), x.size())) + x",
    "parts joined again": "torch.cat(x.split(2), 0) + x",
    "pairs of unlike items": "(rows(x) @ rows(x).T)[~torch.eye(len(x), dtype=torch.bool)].view(len(x), -1)",
    "pairs selected": "(rows(x) @ rows(x).T).masked_select((1 - torch.eye(len(x))).bool()).view(len(x), len(x) - 1)",
    "plain sizes packed": "packed(torch.zeros(4, 4, 4)).sum() + x",
    "items joined again": "torch.stack(x.unbind(0)) + torch.stack(tensors=torch.unbind(x), dim=0) + x",
}


def verdict_of(folder, line):
    """Of a function of a tensor of four dimensions, three of which are symbols."""
    (folder / "lines.py").write_text(
        textwrap.dedent(f"""
        import torch
        import torch.nn.functional as F

        def rows(x):
            return x.flatten(1)

        def packed(x):
            normed = torch.nn.BatchNorm1d(4).eval()(x.view(16, 4)).view(4, 4, 4)
            lengths = torch.ones([4], dtype=torch.int64)
            rows, _ = torch.nn.LSTM(4, 3)(torch.nn.utils.rnn.pack_padded_sequence(normed, lengths), None)
            return torch.nn.utils.rnn.pad_packed_sequence(rows)[0]

        def changed(mask):
            mask[0] = False
            return mask

        def forward(x):
            return {line}
        """)
    )
    return check(
        f"{folder}/lines.py:forward",
        ["x=B×4×H×W", "B=2..6", "H=3..12", "W=3..12"],
        sandboxed=False,
        limits=Limits(seconds=60.0),
    )


@pytest.mark.parametrize("kind", LINES)
def test_line_is_proved(kind, tmp_path):
    """For all sizes, because it runs with all."""
    report = verdict_of(tmp_path, LINES[kind])
    assert report.verdict is Verdict.PROVED, told(report)


@pytest.mark.parametrize(
    ("line", "witness"),
    [
        ("F.max_pool2d(x, x.size()[2:]).view(x.size(0), 5)", {}),
        ("F.avg_pool2d(x, x.shape[2]) + x[..., :1, :1].expand(-1, -1, 1, 2)", {}),
        ("torch.cat(x.split(2)) + x[:-1]", {}),
        ("torch.fft.rfft2(x) + x", {"W": 3}),
        ("(rows(x) @ rows(x).T)[~torch.eye(len(x), dtype=torch.bool)].view(len(x), len(x))", {}),
        ("rows(x)[:, :len(x)][changed(torch.eye(len(x), dtype=torch.bool))].view(len(x))", {}),
    ],
)
def test_line_is_wrong(line, witness, tmp_path):
    """What these lines make has the sizes that it has."""
    report = verdict_of(tmp_path, line)
    assert report.verdict is Verdict.ERROR, told(report)
    assert witness.items() <= dict(report.findings[0].witness).items()


def test_what_has_no_odds_is_not_drawn(tmp_path):
    """Of values with a probability of 0 nothing is said, and yes and no stay a mask."""
    report = checked(
        tmp_path,
        """
        import numpy as np
        import torch
        torch.zeros(2, 4).view(2, int(np.random.choice([3, 4], p=[0, 1])))
        mask = torch.from_numpy(np.random.choice([True, False], 5, p=[0.5, 0.5]))
        torch.zeros(5, 2)[mask].view(-1, 2)
        """,
    )
    assert report.verdict is Verdict.PROVED, told(report)


def test_slices_of_arrays_up_to_chance(tmp_path):
    """Bounds that are cut to the size of the array stay unknown numbers, and the array keeps its size."""
    text = """
        import argparse
        import numpy as np
        import torch
        parser = argparse.ArgumentParser()
        parser.add_argument('--height', type=int, default=9)
        height = parser.parse_args().height
        mask = np.ones((height, 6), np.float32)
        row = np.random.randint(height)
        first, last = np.clip(row - 2, 0, height), np.clip(row + 2, 0, height)
        mask[first:last, 1:3] = 0.0
        torch.zeros(4, height, 6) * torch.from_numpy(mask)
        """
    report = checked(tmp_path, text, "height=1..100")
    assert report.verdict is Verdict.PROVED, told(report)
    report = checked(tmp_path, text.replace("(4, height, 6)", "(4, height, 5)"), "height=1..100")
    assert report.verdict is Verdict.ERROR, told(report)
