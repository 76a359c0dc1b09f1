"""Two sentences, one recurrent encoder, three answers; batches come from an iterator of our own."""

import argparse
import time
from collections import namedtuple

import torch
import torch.nn as nn
import torch.optim as optim

Batch = namedtuple("Batch", ["premise", "hypothesis", "label", "batch_size"])


class BucketIterator:
    """Batches of token ids, time first; the last one is what is left."""

    def __init__(self, examples, batch_size, n_embed, premise_length, hypothesis_length):
        self.examples, self.batch_size, self.n_embed = examples, batch_size, n_embed
        self.lengths = premise_length, hypothesis_length

    def __len__(self):
        return (self.examples + self.batch_size - 1) // self.batch_size

    def __iter__(self):
        start = 0
        while start < self.examples:
            size = min(self.batch_size, self.examples - start)
            premise, hypothesis = (torch.randint(self.n_embed, (length, size)) for length in self.lengths)
            yield Batch(premise, hypothesis, torch.randint(3, (size,)), size)
            start += size


class Bottle(nn.Module):
    """A layer over rank 2 put to work on rank 3."""

    def forward(self, input):
        if len(input.size()) <= 2:
            return super().forward(input)
        size = input.size()[:2]
        out = super().forward(input.view(size[0] * size[1], -1))
        return out.view(size[0], size[1], -1)


class Linear(Bottle, nn.Linear):
    pass


class Encoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        input_size = config.d_proj if config.projection else config.d_embed
        dropout = 0 if config.n_layers == 1 else config.dp_ratio
        self.rnn = nn.LSTM(
            input_size=input_size,
            hidden_size=config.d_hidden,
            num_layers=config.n_layers,
            dropout=dropout,
            bidirectional=config.birnn,
        )

    def forward(self, inputs):
        batch_size = inputs.size()[1]
        cells = self.config.n_layers * (2 if self.config.birnn else 1)
        state_shape = cells, batch_size, self.config.d_hidden
        h0 = c0 = inputs.new_zeros(state_shape)
        _outputs, (ht, _ct) = self.rnn(inputs, (h0, c0))
        return ht[-1] if not self.config.birnn else ht[-2:].transpose(0, 1).contiguous().view(batch_size, -1)


class SNLIClassifier(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.n_embed, config.d_embed)
        self.projection = Linear(config.d_embed, config.d_proj)
        self.encoder = Encoder(config)
        self.dropout = nn.Dropout(p=config.dp_ratio)
        self.relu = nn.ReLU()
        seq_in_size = 2 * config.d_hidden
        if config.birnn:
            seq_in_size *= 2
        hidden = [
            layer for _ in range(2) for layer in (Linear(seq_in_size, seq_in_size), self.relu, self.dropout)
        ]
        self.out = nn.Sequential(*hidden, Linear(seq_in_size, config.d_out))

    def forward(self, batch):
        prem_embed = self.embed(batch.premise)
        hypo_embed = self.embed(batch.hypothesis)
        if self.config.projection:
            prem_embed = self.relu(self.projection(prem_embed))
            hypo_embed = self.relu(self.projection(hypo_embed))
        premise = self.encoder(prem_embed)
        hypothesis = self.encoder(hypo_embed)
        return self.out(torch.cat([premise, hypothesis], 1))


def get_args():
    parser = argparse.ArgumentParser(description="SNLI")
    for name, kind, default in [
        ("epochs", int, 1), ("batch_size", int, 128), ("examples", int, 1000), ("dev_examples", int, 200),
        ("d_embed", int, 12), ("d_proj", int, 8), ("d_hidden", int, 6), ("n_layers", int, 1), ("lr", float, 0.001),
        ("premise_length", int, 14), ("hypothesis_length", int, 8), ("dp_ratio", float, 0.2),
    ]:  # fmt: skip
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default)
    parser.add_argument("--no-bidirectional", action="store_false", dest="birnn")
    parser.add_argument("--no-projection", action="store_false", dest="projection")
    return parser.parse_args()


def accuracy(model, iterator, criterion):
    model.eval()
    n_correct, total_loss = 0, 0.0
    with torch.no_grad():
        for batch in iterator:
            answer = model(batch)
            n_correct += (torch.max(answer, 1)[1].view(batch.label.size()) == batch.label).sum().item()
            total_loss += criterion(answer, batch.label).item() * batch.batch_size
    return 100.0 * n_correct / iterator.examples, total_loss / iterator.examples


def main():
    args = get_args()
    args.n_embed, args.d_out = 50, 3
    shared = args.n_embed, args.premise_length, args.hypothesis_length
    train_iter = BucketIterator(args.examples, args.batch_size, *shared)
    dev_iter = BucketIterator(args.dev_examples, args.batch_size, *shared)
    model = SNLIClassifier(args)
    criterion = nn.CrossEntropyLoss()
    opt = optim.Adam(model.parameters(), lr=args.lr)
    start, best_dev_acc, iterations = time.time(), -1, 0
    for epoch in range(args.epochs):
        n_total = 0
        for batch_idx, batch in enumerate(train_iter):
            model.train()
            opt.zero_grad()
            iterations += 1
            answer = model(batch)
            n_total += batch.batch_size
            loss = criterion(answer, batch.label)
            loss.backward()
            opt.step()
            print(f"{time.time() - start:6.0f} {epoch:5d} {iterations:9d} {1 + batch_idx}/{len(train_iter)}")
        dev_acc, dev_loss = accuracy(model, dev_iter, criterion)
        print(f"epoch {epoch}: {n_total} examples, dev {dev_acc:.1f} % {dev_loss:.4f}")
        if dev_acc > best_dev_acc:
            best_dev_acc = dev_acc
            torch.save(model.state_dict(), f"best_snapshot_devacc_{dev_acc:.2f}.pt")


if __name__ == "__main__":
    main()
