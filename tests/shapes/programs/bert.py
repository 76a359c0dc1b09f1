"""A small transformer encoder with its attention written by hand, trained to tell two kinds of sentences apart."""

import argparse
import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler


@dataclass(frozen=True)
class BertConfig:
    vocab_size: int = 60
    hidden_size: int = 24
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    intermediate_size: int = 48
    max_position_embeddings: int = 64
    num_labels: int = 2

    @property
    def head_size(self):
        return self.hidden_size // self.num_attention_heads


class BertEmbeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=1e-12)
        self.register_buffer("position_ids", torch.arange(config.max_position_embeddings).expand((1, -1)))

    def forward(self, input_ids):
        seq_length = input_ids.size(1)
        positions = self.position_embeddings(self.position_ids[:, :seq_length])
        return self.LayerNorm(self.word_embeddings(input_ids) + positions)


class BertSelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads, self.head_size = config.num_attention_heads, config.head_size
        self.all_head_size = self.heads * self.head_size
        self.query = nn.Linear(config.hidden_size, self.all_head_size)
        self.key = nn.Linear(config.hidden_size, self.all_head_size)
        self.value = nn.Linear(config.hidden_size, self.all_head_size)

    def transpose_for_scores(self, x):
        new_x_shape = (*x.size()[:-1], self.heads, self.head_size)
        x = x.view(*new_x_shape)
        return x.permute(0, 2, 1, 3)

    def forward(self, hidden_states, attention_mask):
        query, key, value = (
            self.transpose_for_scores(layer(hidden_states)) for layer in (self.query, self.key, self.value)
        )
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(self.head_size)
        scores = scores + attention_mask
        probs = nn.Softmax(dim=-1)(scores)
        context = torch.matmul(probs, value)
        context = context.permute(0, 2, 1, 3).contiguous()
        return context.view(*context.size()[:-2], self.all_head_size)


class BertLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention = BertSelfAttention(config)
        self.output = nn.Linear(self.attention.all_head_size, config.hidden_size)
        self.norm1 = nn.LayerNorm(config.hidden_size)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm2 = nn.LayerNorm(config.hidden_size)

    def forward(self, hidden_states, mask):
        hidden_states = self.norm1(hidden_states + self.output(self.attention(hidden_states, mask)))
        return self.norm2(hidden_states + self.down(nn.functional.gelu(self.up(hidden_states))))


class BertForSequenceClassification(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embeddings = BertEmbeddings(config)
        self.layer = nn.ModuleList([BertLayer(config) for _ in range(config.num_hidden_layers)])
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, input_ids, attention_mask, labels=None):
        mask = (1.0 - attention_mask[:, None, None, :].float()) * -10000.0
        hidden = self.embeddings(input_ids)
        for layer in self.layer:
            hidden = layer(hidden, mask)
        pooled = torch.tanh(self.pooler(hidden[:, 0]))
        logits = self.classifier(pooled)
        if labels is None:
            return logits
        return nn.functional.cross_entropy(logits, labels), logits


class Sentences(Dataset):
    def __init__(self, count, seq_length, vocab_size):
        self.input_ids = torch.randint(1, vocab_size, (count, seq_length))
        self.labels = torch.randint(2, (count,))

    def __len__(self):
        return self.input_ids.size(0)

    def __getitem__(self, i):
        ids = self.input_ids[i]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": self.labels[i]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seq-length", type=int, default=48)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=5e-5)
    args = parser.parse_args()
    config = BertConfig()
    model = BertForSequenceClassification(config)
    data = Sentences(args.examples, args.seq_length, config.vocab_size)
    loader = DataLoader(data, sampler=RandomSampler(data), batch_size=args.batch_size)
    held_out = DataLoader(data, sampler=SequentialSampler(data), batch_size=args.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    total_steps = len(loader) * args.epochs
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / total_steps))
    for epoch in range(args.epochs):
        for step, batch in enumerate(loader):
            loss, _ = model(**batch)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            print(
                f"epoch {epoch} step {step}/{len(loader)} loss {loss.item():.3f} lr {scheduler.get_last_lr()[0]:.2e}"
            )
        collected = []
        for batch in held_out:
            with torch.no_grad():
                _, logits = model(**batch)
            collected.append(logits.argmax(-1) == batch["labels"])
        print(f"accuracy {torch.cat(collected).float().mean().item():.3f}")
    torch.save(model.state_dict(), "pytorch_model.bin")


if __name__ == "__main__":
    main()
