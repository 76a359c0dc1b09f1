"""Generation on SpAtten: a decoder with a cache of keys and values, token by token, on random weights.

It is there for the mechanics: what is fetched, asked for again, selected and dropped when one query at a time meets a long
cache. Random weights say nothing about how often a real model would be unsure; the authors' workload tables do
(:func:`sparsam.hardware.spatten_rows.read_rows`).

In each step and layer: the cascade selects the living tokens from importances accumulated over heads, layers, steps and the
prompt; their keys are fetched (upper planes), scored, and where the row is not sure fetched and scored again; the largest
probabilities' values are fetched and summed. A token that a layer's cache has dropped never comes back there, and a later layer
keeps none that an earlier one of the same step dropped. The first generated token sees everything, as in the authors' tables,
and the newest token is always kept. At 6 bits two heads share a line and one selection of values, here by the sum of their
probabilities (chosen by us: the authors' bench gives a pair one selection and does not say of what). Heads are not pruned here.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsam.errors import Refused
from sparsam.hardware.machine import Machine
from sparsam.hardware.spatten_datapath import decided
from sparsam.hardware.spatten_pipeline import Engine, RowsCost, run_rows
from sparsam.hardware.spatten_rows import PAIRED_BITS, TRANSACTION, Rows, channel_load, vector_bytes
from sparsam.hardware.spatten_topk import select_rows

QUERY_BITS = 12


@dataclass(frozen=True)
class Decoder:
    """A transformer decoder (norm first), weights float64.

    Args:
        embedding: (vocabulary, w).
        position: (most tokens, w).
        qkv: (layers, 3, heads, w, d).
        out: (layers, heads, d, w).
        up, down: (layers, w, 4 w) and (layers, 4 w, w).
        read: (vocabulary, w), scores of the next token.
    """

    embedding: NDArray[np.float64]
    position: NDArray[np.float64]
    qkv: NDArray[np.float64]
    out: NDArray[np.float64]
    up: NDArray[np.float64]
    down: NDArray[np.float64]
    read: NDArray[np.float64]

    @property
    def layers(self) -> int:
        """How many."""
        return len(self.qkv)

    @classmethod
    def random(
        cls,
        layers: int,
        heads: int,
        width: int,
        *,
        tokens: int = 1024,
        vocabulary: int = 256,
        sharp: float = 2.0,
        seed: int = 0,
    ) -> "Decoder":
        """Normal weights; the larger ``sharp``, the more each query prefers few keys."""
        rng, w = np.random.default_rng(seed), heads * width
        qkv = rng.standard_normal((layers, 3, heads, w, width)) / math.sqrt(w)
        qkv[:, :2] *= math.sqrt(sharp)
        return cls(
            rng.standard_normal((vocabulary, w)), rng.standard_normal((tokens, w)), qkv,
            rng.standard_normal((layers, heads, width, w)) / math.sqrt(w),
            rng.standard_normal((layers, w, 4 * w)) / math.sqrt(w),
            rng.standard_normal((layers, 4 * w, w)) / math.sqrt(4 * w), rng.standard_normal((vocabulary, w)),
        )  # fmt: skip


@dataclass(frozen=True)
class Pruning:
    """What generation saves.

    Args:
        tokens: a share for each layer: of the tokens at the first step, how many a layer keeps; falling. 1 for all, always.
        values: share of the keys whose values are summed.
        upper_bits, low_bits, value_bits: of the planes of keys, and of values.
        threshold: rows whose largest probability is below it fetch the low plane.
    """

    tokens: tuple[float, ...]
    values: float = 1.0
    upper_bits: int = 8
    low_bits: int = 4
    value_bits: int = 8
    threshold: float = 0.1

    def __post_init__(self) -> None:
        falls = all(a >= b for a, b in zip(self.tokens, self.tokens[1:], strict=False))
        if not falls or not all(0 < x <= 1 for x in (*self.tokens, self.values)):
            raise Refused(
                f"shares of tokens {self.tokens} and values {self.values}: each above 0 and at most 1, those of tokens "
                "falling from layer to layer.",
                code="spatten-pruning",
            )

    @classmethod
    def of(cls, machine: Machine, tokens: tuple[float, ...]) -> "Pruning":
        """With a machine's widths, threshold and share of values."""
        return cls(
            tokens, 1 - machine.number("generation_value_prune", -1.0), int(machine["upper_bits"]), int(machine["low_bits"]),
            int(machine["generation_value_bits"]), machine.number("low_threshold", -1.0),
        )  # fmt: skip


@dataclass
class Generated:
    """A run of generation.

    Args:
        tokens: generated.
        hidden: of each step, (w,), after the last layer.
        rows: of all steps, layers and heads.
        select: (r,) cycles of the selection of values.
        fetch: cycles by what is fetched, from the channels' loads.
        ids: of each row, the tokens whose keys and the tokens whose values were fetched.
        importance: of each token, at the end.
    """

    tokens: list[int]
    hidden: list[NDArray[np.float64]]
    rows: Rows
    select: NDArray[np.int64]
    fetch: dict[str, NDArray[np.float64]]
    ids: list[tuple[NDArray[np.int64], NDArray[np.int64]]]
    importance: NDArray[np.float64]

    def cost(self, engine: Engine) -> RowsCost:
        """Through the pipeline, layer after layer."""
        return run_rows(self.rows, engine, select=self.select, fetch=self.fetch, by_layer=True)


@dataclass
class _Cache:
    """Keys and values of a layer as integers (t, h, d), their steps (h,), who is living, and how many tokens there are."""

    keys: NDArray[np.int32]
    values: NDArray[np.int32]
    key_step: NDArray[np.float64]
    value_step: NDArray[np.float64]
    living: NDArray[np.int64]
    tokens: int


@dataclass
class _Log:
    columns: list[dict[str, int]] = field(default_factory=list)
    select: list[int] = field(default_factory=list)
    fetch: dict[str, list[float]] = field(default_factory=lambda: {"keys": [], "low": [], "values": []})
    ids: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = field(default_factory=list)


def generate(
    decoder: Decoder,
    prompt: NDArray[np.int64],
    steps: int,
    pruning: Pruning,
    engine: Engine,
    *,
    masked: bool = False,
    seed: int = 0,
) -> Generated:
    """Generate greedily.

    Args:
        prompt: (n,) token numbers.
        steps: tokens to generate.
        masked: nothing leaves the cache and dead keys are masked instead: the same results, the slow way.
        seed: of the selector.

    Raises:
        Refused: ``spatten-pruning``, ``spatten-overflow``, ``spatten-width``.
    """
    if len(pruning.tokens) != decoder.layers or len(prompt) + steps - 1 > len(decoder.position):
        raise Refused(
            f"{len(pruning.tokens)} shares for {decoder.layers} layers, {len(prompt)} + {steps} tokens for "
            f"{len(decoder.position)} places.",
            code="spatten-pruning",
        )
    importance = np.zeros(len(prompt) + steps)
    caches = _prompt(decoder, prompt[:-1], steps, pruning, importance)
    token, log = int(prompt[-1]), _Log()
    tokens, hidden = [], []
    for step in range(steps):
        place = len(prompt) - 1 + step
        x = decoder.embedding[token] + decoder.position[place]
        before = np.arange(place + 1)
        for number, cache in enumerate(caches):
            q, k, v = _normed(x) @ decoder.qkv[number]  # (h, d) each
            _append(cache, place, k, v, pruning)
            candidates = np.intersect1d(np.append(cache.living, place), before)
            share = pruning.tokens[number] if step else 1.0
            target = max(1, math.floor(share * len(prompt) + 1e-9)) if share < 1 else len(candidates)
            cache.living = _kept(
                candidates, target, place, importance, engine, seed, step * decoder.layers + number
            )
            if len(cache.living) < len(candidates) and log.columns:
                log.columns[-1] |= {"tokens_from": len(candidates), "tokens_to": len(cache.living)}
            before = cache.living
            out = _attended(cache, q, pruning, engine, masked, importance, log, (step, number), seed)
            x = x + np.matmul(out[:, None], decoder.out[number]).sum((0, 1))
            x = x + _gelu(_normed(x) @ decoder.up[number]) @ decoder.down[number]
        token = int((decoder.read @ _normed(x)).argmax())
        tokens.append(token)
        hidden.append(x)
    columns: dict[str, Any] = {
        name: [one.get(name, 0) for one in log.columns]
        for name in {name for one in log.columns for name in one}
    }
    fetch = {name: np.array(one) for name, one in log.fetch.items()}
    return Generated(
        tokens, hidden, Rows.of(**columns), np.array(log.select, np.int64), fetch, log.ids, importance
    )


def _kept(
    candidates: NDArray[np.int64],
    target: int,
    place: int,
    importance: NDArray[np.float64],
    engine: Engine,
    seed: int,
    number: int,
) -> NDArray[np.int64]:
    """The cascade's selection among the candidates; the newest token stays."""
    if target >= len(candidates):
        return candidates
    score = np.where(candidates == place, np.inf, importance[candidates]).astype(np.float32)
    keep, _, _ = select_rows(
        score[None], np.array([len(score)]), np.array([target]), engine.comparators, seed, 1_000_000 + number
    )
    return np.asarray(candidates[keep[0]], np.int64)


def _attended(
    cache: _Cache, q: NDArray[np.float64], pruning: Pruning, engine: Engine, masked: bool, importance: NDArray[np.float64],
    log: _Log, at: tuple[int, int], seed: int,
) -> NDArray[np.float64]:  # fmt: skip
    """One query of each head on a layer's cache: (h, d)."""
    heads, width = q.shape
    everything = np.arange(cache.tokens)
    ids = everything if masked else cache.living
    seen = np.isin(ids, cache.living)[None]
    q_step = np.abs(q).max(1) / ((1 << (QUERY_BITS - 1)) - 1)
    ints = np.rint(q / np.maximum(q_step, 1e-30)[:, None]).astype(np.int64)
    p = np.zeros((heads, len(ids)), np.float32)
    again = np.zeros(heads, np.bool_)
    for head in range(heads):
        unit = q_step[head] * cache.key_step[head] / math.sqrt(width)
        found = decided(
            ints[head : head + 1],
            cache.keys[ids, head],
            unit,
            seen,
            pruning.low_bits,
            pruning.threshold,
            f"layer {at[1]}",
        )
        p[head], again[head] = found[0][0], found[1][0]
    importance[ids] += p.sum(0, dtype=np.float64)
    n, group = len(cache.living), 2 if pruning.value_bits == PAIRED_BITS else 1
    kept = max(1, math.floor(pruning.values * n + 1e-9))
    out = np.zeros((heads, width))
    for first in range(0, heads, group):
        pair = range(first, min(first + group, heads))
        scores = p[first : first + group][:, seen[0]].sum(0, dtype=np.float32)
        number = (at[0] * 4096 + at[1]) * heads + first
        keep, cycles, _ = select_rows(
            scores[None], np.array([n]), np.array([kept]), engine.comparators, seed, number
        )
        chosen = cache.living[keep[0]]
        where = np.searchsorted(ids, chosen)
        for head in pair:
            values = cache.values[chosen, head] * cache.value_step[head]
            out[head] = p[head, where].astype(np.float64) @ values
            log.columns.append(
                {
                    "iteration": at[0], "layer": at[1], "head": head, "width": width, "context": len(everything), "keys": n,
                    "values": kept, "key_bits": pruning.upper_bits, "value_bits": pruning.value_bits,
                    "low_bits": pruning.low_bits, "refetch": int(again[head]), "queries": 1,
                }
            )  # fmt: skip
            log.select.append(int(cycles[0]) if head == first else 0)
            log.ids.append((cache.living, chosen))
            for name, bits, who in (
                ("keys", pruning.upper_bits, cache.living), ("low", pruning.low_bits, cache.living),
                ("values", pruning.value_bits, chosen),
            ):  # fmt: skip
                log.fetch[name].append(_fetch_cycles(who, width, bits, engine))
    return out


def _fetch_cycles(ids: NDArray[np.int64], width: int, bits: int, engine: Engine) -> float:
    """Cycles of the channel that has most to do; a head's half of a line of two."""
    if not bits:
        return 0.0
    share = 2 if bits == PAIRED_BITS else 1
    line = int(vector_bytes(width, bits)) * share
    return (
        float(channel_load(ids, -(-line // TRANSACTION) * TRANSACTION, engine.channels).max())
        / share
        / engine.efficiency
    )


def _prompt(
    decoder: Decoder, prompt: NDArray[np.int64], steps: int, pruning: Pruning, importance: NDArray[np.float64]
) -> list[_Cache]:
    """The caches after the prompt, worked off densely in float64; its probabilities are the first importances."""
    n = len(prompt)
    x = decoder.embedding[prompt] + decoder.position[:n]
    caches = []
    for number in range(decoder.layers):
        q, k, v = _normed(x) @ decoder.qkv[number]  # (h, n, d) each
        made = []
        for one, bits in ((k, pruning.upper_bits + pruning.low_bits), (v, pruning.value_bits)):
            most = (1 << (bits - 1)) - 1
            step = np.abs(one).max((1, 2)) / most
            whole = np.zeros((n + steps, *q.shape[::2]), np.int32)
            whole[:n] = np.clip(np.rint(one / step[:, None, None]), -most, most).transpose(1, 0, 2)
            made.append((whole, step))
        caches.append(_Cache(made[0][0], made[1][0], made[0][1], made[1][1], np.arange(n), n))
        logits = (q @ k.transpose(0, 2, 1)) / math.sqrt(q.shape[2])
        logits += np.triu(np.full((n, n), -np.inf), 1)
        p = np.exp(logits - logits.max(2, keepdims=True))
        p /= p.sum(2, keepdims=True)
        importance[:n] += p.sum((0, 1))
        x = x + np.matmul(p @ v, decoder.out[number]).sum(0)
        x = x + _gelu(_normed(x) @ decoder.up[number]) @ decoder.down[number]
    return caches


def _append(
    cache: _Cache, place: int, k: NDArray[np.float64], v: NDArray[np.float64], pruning: Pruning
) -> None:
    """One token's keys and values, on the prompt's grid, cut off at its ends."""
    for whole, one, step, bits in (
        (cache.keys, k, cache.key_step, pruning.upper_bits + pruning.low_bits),
        (cache.values, v, cache.value_step, pruning.value_bits),
    ):
        most = (1 << (bits - 1)) - 1
        whole[place] = np.clip(np.rint(one / step[:, None]), -most, most)
    cache.tokens = place + 1


def _normed(x: NDArray[np.float64]) -> NDArray[np.float64]:
    middle = x - x.mean(-1, keepdims=True)
    return np.asarray(middle / np.sqrt((middle**2).mean(-1, keepdims=True) + 1e-5))


def _gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))))
