"""A search over hyper-parameters, after Top Reco: a small graph network on a table of physics, a run for each setting.

    sparsam track --run wide -- python hyperparameters.py --hidden 64 --rate 0.1

Showers of the MAGIC telescope (gamma or hadron) are nodes; each is joined to those most like it, and a layer of messages passes
between them. The table is that of the shared data folder (SPARSAM_SHARED); where it is not there, one is drawn.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import sparsam.provenance as provenance

ROWS, NEIGHBOURS = 1500, 5


def table() -> Path:
    """The table of showers; a drawn one of the same columns where the real one is not at hand."""
    real = Path(os.environ.get("SPARSAM_SHARED", "../shared")) / "data" / "science" / "magic_gamma.parquet"
    drawn = Path("drawn.parquet")
    if real.exists():
        return real
    if not drawn.exists():
        random = np.random.default_rng(0)
        label = random.integers(0, 2, 3 * ROWS)
        columns = {f"f{at}": random.normal(size=len(label)) + label * (at < 3) for at in range(10)}
        pq.write_table(pa.table({**columns, "label": label}), drawn)
    return drawn


def nodes(place: Path, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of the showers, each beside the mean of its neighbours' (one round of messages); and their kinds."""
    found = pq.read_table(place)
    label = found["label"].to_numpy()
    numbers = np.stack([found[x].to_numpy() for x in found.column_names if found[x].type == pa.float64()], 1)
    chosen = np.random.default_rng(1).permutation(len(label))[:limit]
    x = (numbers[chosen] - numbers[chosen].mean(0)) / numbers[chosen].std(0)
    near = np.square(x[:, None] - x[None]).sum(2).argpartition(NEIGHBOURS + 1, 1)[:, : NEIGHBOURS + 1]
    return np.concatenate([x, x[near].mean(1)], 1), label[chosen].astype(float)


def train(
    x: np.ndarray, y: np.ndarray, hidden: int, rate: float, batch: int, epochs: int
) -> dict[str, np.ndarray]:
    """Two layers, by stochastic gradient descent; the accuracy of each epoch is told to whoever tracks."""
    random = np.random.default_rng(2)
    cut = len(x) * 4 // 5
    first, second = random.normal(size=(x.shape[1], hidden)) / 4, random.normal(size=hidden) / 4
    for _ in range(epochs):
        order = random.permutation(cut)
        for at in range(0, cut, batch):
            some = order[at : at + batch]
            inner = np.tanh(x[some] @ first)
            wrong = 1 / (1 + np.exp(-inner @ second)) - y[some]
            back = np.outer(wrong, second) * (1 - inner**2)
            second -= rate * inner.T @ wrong / len(some)
            first -= rate * x[some].T @ back / len(some)
        told = (np.tanh(x[cut:] @ first) @ second > 0) == (y[cut:] > 0.5)
        provenance.record_metric("accuracy", round(float(told.mean()), 4))
    return {"first": first, "second": second}


def main() -> None:
    """One setting."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--hidden", type=int, default=16)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", default="model.npz")
    chosen = parser.parse_args()
    settings = {key: value for key, value in vars(chosen).items() if key != "out"}
    provenance.record_type("Machine Learning")
    provenance.record_config({**settings, "preselection": f"{ROWS} showers, {NEIGHBOURS} neighbours"})
    x, y = nodes(table(), ROWS)
    np.savez(chosen.out, **train(x, y, **settings))


if __name__ == "__main__":
    main()
