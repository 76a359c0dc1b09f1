"""A transformer trained with checkpoints and gone on with from the last of them, after Megatron-LM.

    sparsam track --run first -- python checkpoints.py --steps 6
    sparsam track --run second -- python checkpoints.py --steps 12 --resume checkpoints/step6.pt

Which data, which settings and which checkpoint a model was made from is asked afterwards.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import nn

import sparsam.provenance as provenance

EVERY, WORDS, WIDTH, LENGTH = 3, 64, 32, 24


def corpus(place: Path) -> torch.Tensor:
    """Token numbers from a file, which is drawn where it is not there."""
    if not place.exists():
        drawn = torch.randint(0, WORDS, (64, LENGTH), generator=torch.Generator().manual_seed(0))
        place.write_text(json.dumps(drawn.tolist()))
    return torch.tensor(json.loads(place.read_text()))


class Model(nn.Module):
    """One layer, causal."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, dropout=0.0, batch_first=True)
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.layer(self.embedding(tokens), mask, is_causal=True))


def main() -> None:
    """From the beginning, or from a checkpoint, to a number of steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--resume")
    parser.add_argument("--out", default="model.pt")
    chosen = parser.parse_args()
    provenance.record_config({"steps": chosen.steps, "rate": chosen.rate, "resumed": bool(chosen.resume)})
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokens = corpus(Path("corpus.json"))
    model, begin = Model(), 0
    optimizer = torch.optim.Adam(model.parameters(), chosen.rate)
    if chosen.resume:
        state = torch.load(chosen.resume, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        begin = state["step"]
    Path("checkpoints").mkdir(exist_ok=True)
    for step in range(begin + 1, chosen.steps + 1):
        some = tokens[torch.randint(0, len(tokens), (8,), generator=torch.Generator().manual_seed(step))]
        loss = nn.functional.cross_entropy(model(some[:, :-1]).flatten(0, 1), some[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        provenance.record_metric("loss", round(loss.item(), 4))
        if step % EVERY == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, f"checkpoints/step{step}.pt")
    torch.save(model.state_dict(), chosen.out)


if __name__ == "__main__":
    main()
