"""Freezing: the form in which a model serves on this machine. Token ids in, logits out, no padding anywhere.

The user's own embeddings, pooler and head stay; they are given one long row of tokens with its positions, and one row for
each sequence's class token. Between them run prepacked products, and in the last layer nothing but what the head reads.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sparsam.errors import Refused, Usage
from sparsam.models import lift, plan_of, stack_of
from sparsam.models.encoder import Stack
from sparsam.models.heads import why_not
from sparsam.models.integer_only import encoder_of
from sparsam.models.lift import base_of, family_of
from sparsam.models.positions import first_position, longest_text
from sparsam.packed import Packed
from sparsam.runtime.ends import embedded, head_of, pictured, positions_of
from sparsam.runtime.frozen import FrozenEncoder, FrozenLayers, FrozenStack
from sparsam.runtime.ibert import NativeIntegers
from sparsam.runtime.product import prepacks
from sparsam.task.encode import pixels_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Batch:
    """Sequences of token ids end to end."""

    ids: Tensor
    """(t,)"""
    lengths: Tensor
    """(b,)"""
    kinds: Tensor | None = None
    """Token type ids (t,), where the tokenizer gives them."""

    @staticmethod
    def of(rows: Sequence[Sequence[int]], kinds: Sequence[Sequence[int]] | None = None) -> "Batch":
        """From lists of token ids, one a sequence, and of token types."""
        ids = np.concatenate([np.asarray(row, np.int64) for row in rows]) if rows else np.zeros(0, np.int64)
        lengths = torch.tensor([len(row) for row in rows])
        of_kind = None if kinds is None else torch.from_numpy(np.concatenate([np.asarray(x) for x in kinds]))
        return Batch(torch.from_numpy(ids), lengths, of_kind)


class Frozen:
    """A model's inference form on this machine; make it with :func:`freeze`.

    It takes packed token ids (:meth:`logits`), pictures (:meth:`of_images`) or, with a processor, texts
    (:meth:`predict`). Not safe to share between threads: give each its own.

    Products and attention run on torch's threads, so ``torch.set_num_threads`` or ``OMP_NUM_THREADS`` says how many. All cores
    are right for one process on a machine of its own; where several serve side by side, give each its share: threads that
    wait for a core which another process holds cost more than they bring.
    """

    def __init__(self, model: Any, encoder: FrozenEncoder, processor: Any, dtype: torch.dtype) -> None:
        self.model = model
        self.encoder = encoder
        self.processor = processor
        self.dtype = dtype
        config = model.config
        self.labels: Mapping[int, str] = config.id2label
        self.first_position = first_position(config)
        self.head = head_of(model)

    @torch.inference_mode()
    def logits(self, batch: Batch) -> Float[Tensor, "b c"]:
        """The head's output for packed sequences, in float32.

        Raises:
            Usage: ``empty-sequence`` for a sequence without tokens.
        """
        if batch.lengths.numel() == 0:
            return torch.zeros(0, self.model.config.num_labels)
        if not bool((batch.lengths > 0).all()):
            raise Usage(
                "a sequence has no tokens; expected the tokenizer's special tokens at least. Leave it out.",
                code="empty-sequence",
            )
        if self.head is not None:
            positions = positions_of(batch.lengths, self.first_position)
            return self._through(batch.lengths, embedded(self.model, batch.ids, positions, batch.kinds))
        tokens, positions = _lay_out(batch.lengths)
        inputs = {"input_ids": batch.ids[None], "position_ids": (positions + self.first_position)[None]}
        if batch.kinds is not None:
            inputs["token_type_ids"] = batch.kinds[None]
        return self._run(tokens, inputs)

    @torch.inference_mode()
    def of_images(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """The head's output for pictures as the image processor gives them, in float32."""
        embeddings = base_of(self.model).embeddings
        n = int(embeddings.position_embeddings.shape[1])
        lengths = torch.full((pixels.shape[0],), n)
        if self.head is not None and len(pixels):
            return self._through(lengths, pictured(self.model, pixels.to(self.dtype)))
        tokens, _ = _lay_out(lengths)
        return self._run(tokens, {"pixel_values": pixels.to(self.dtype)})

    def _through(self, lengths: Tensor, x: Tensor) -> Tensor:
        """Encoder and head, without the model's own forward pass around them."""
        assert self.head is not None
        stack = self.encoder.stack
        if stack.layers is not None:  # the two calls do not ask where a token lay
            states = stack.in_two_calls(x, lengths)
        else:
            states = stack.read(_lay_out(lengths)[0].with_values(x))
        return self.head(self.model, states).float()

    def _run(self, tokens: Packed, inputs: dict[str, Tensor]) -> Tensor:
        self.encoder.tokens = tokens
        try:
            out: Tensor = self.model(**inputs).logits
        finally:
            self.encoder.tokens = None
        return out.float()

    def predict(self, inputs: Sequence[Any], *, batch: int = 32) -> NDArray[np.float32]:
        """Logits (n, c) of texts, pairs of texts or images, in the order given.

        Args:
            inputs: strings, pairs of strings, or images: Pillow's, or uint8 (h, w) or (h, w, c). Texts longer than the model
                reads are cut.
            batch: how many at once. Texts' lengths do not matter: nothing is padded.

        Raises:
            Usage: ``processor-missing`` where the model was frozen without its tokenizer or image processor, ``texts`` for one
                string where a list is expected, or for what is no text where the model reads texts and the other way round,
                ``batch`` below 1.
        """
        reads_images = self.model.main_input_name == "pixel_values"
        if isinstance(inputs, str):
            raise Usage(
                f"expected a list of texts; got one text, {inputs[:40]!r}. Write [text].", code="texts"
            )
        for wrong in () if reads_images else (one for one in inputs if not _is_text(one)):
            raise Usage(
                f"expected texts, or pairs of texts; got {str(wrong)[:60]}, a {type(wrong).__name__}. Write str(x).",
                code="texts",
            )
        if batch < 1:
            raise Usage(f"batch must be at least 1; got {batch}.", code="batch")
        if reads_images and len(inputs) and isinstance(inputs[0], str):
            raise Usage(f"this model reads images; got texts, first {inputs[0][:40]!r}.", code="texts")
        if self.processor is None:
            what = "image processor" if reads_images else "tokenizer"
            raise Usage(
                f"this model was frozen without its {what}, so it reads {'pixels' if reads_images else 'token ids'} alone. "
                f"Give it: sparsam.freeze(model, processor={what.replace(' ', '_')}).",
                code="processor-missing",
            )
        found = self._seen(inputs, batch) if reads_images else map(self.logits, self._encoded(inputs, batch))
        rows = [part.numpy() for part in found]
        return np.concatenate(rows) if rows else np.zeros((0, self.model.config.num_labels), np.float32)

    def _seen(self, images: Sequence[Any], batch: int) -> Iterator[Tensor]:
        for start in range(0, len(images), batch):
            part = [np.asarray(image, np.uint8) for image in images[start : start + batch]]
            yield self.of_images(torch.from_numpy(pixels_of(self.processor, part)))

    def _encoded(self, texts: Sequence[Any], batch: int) -> Iterator[Batch]:
        pairs = bool(len(texts)) and not isinstance(texts[0], str)
        longest = longest_text(self.model.config, self.processor)
        for start in range(0, len(texts), batch):
            part = list(texts[start : start + batch])
            given = tuple(map(list, zip(*part, strict=True))) if pairs else (part,)
            found = self.processor(*given, truncation=True, max_length=longest)
            yield Batch.of(found["input_ids"], found.get("token_type_ids"))


def _is_text(given: Any) -> bool:
    """A text, or a pair of them."""
    pair = (
        isinstance(given, tuple | list) and len(given) == 2 and all(isinstance(part, str) for part in given)
    )
    return isinstance(given, str) or pair


def _lay_out(lengths: Tensor) -> tuple[Packed, Tensor]:
    """Packed tokens of these lengths without values, and each token's position."""
    b, width = lengths.shape[0], int(lengths.max())
    sequences = torch.repeat_interleave(torch.arange(b), lengths)
    starts = torch.cumsum(lengths, 0) - lengths
    positions = torch.arange(sequences.shape[0]) - starts[sequences]
    rows = sequences * width + positions
    return Packed(torch.empty(rows.shape[0], 0), lengths, rows, width), positions


def freeze(model: Any, *, processor: Any = None, dtype: str | None = None) -> Frozen:
    """The inference form of a classifier on this machine. The model itself is left as it is.

    Args:
        model: a transformers model with a head that reads the class token, dense or with a plan.
        processor: its tokenizer or image processor.
        dtype: ``float32`` or ``bfloat16``; by default bfloat16 where the processor multiplies it natively. Beside products in
            integers everything is float32, whatever it says.

    Raises:
        Refused: ``freeze-head`` for another head than a classifier's, ``freeze-device`` for a model that is not on the CPU,
            ``family-unknown``, ``family-refused``.
        Usage: ``dtype``.
    """
    if dtype is not None and dtype not in DTYPES:
        raise Usage(f"dtype is one of {', '.join(DTYPES)}; got {dtype!r}.", code="dtype")
    chosen = (torch.bfloat16 if native_bf16() else torch.float32) if dtype is None else DTYPES[dtype]
    reason = why_not([part.__name__ for part in type(model).__mro__])
    if reason is not None:
        raise Refused(
            f"{reason}. Only classifiers of whole texts and images, which read the class token alone, are frozen. Run it as it "
            "is: its packed encoder removes the same tokens.",
            code="freeze-head",
        )
    device = next(model.parameters()).device
    if device.type != "cpu":
        raise Refused(
            f"the model is on {device}; a frozen model runs on the CPU so far. Move it there: model.to('cpu').",
            code="freeze-device",
        )
    plan = plan_of(model)
    if plan is not None and plan.integer_only is not None:
        return FrozenIntegers(model, processor)
    if plan is not None and any(left.formats for left in plan.layers):
        chosen = torch.float32
    own = copy.deepcopy(model).eval().requires_grad_(False)
    lift(own)
    stack = FrozenStack(_worth_asking(stack_of(own)), chosen)
    encoder = FrozenEncoder(stack)
    base = base_of(own)
    family = family_of(own.config.model_type)
    if family.replace == "encoder":
        parent, _, name = family.container.rpartition(".")
        setattr(base.get_submodule(parent) if parent else base, name, encoder)
    else:
        layers = FrozenLayers()
        layers.encoder = encoder
        setattr(base.get_submodule(family.container) if family.container else base, family.layers, layers)
    own.config._attn_implementation = "sdpa"  # no mask is made for a row without padding
    torch.nn.Module.to(
        own, chosen
    )  # the model's own method refuses it beside integers, which are held in float32 already
    return Frozen(own, encoder, processor, chosen)


class FrozenIntegers(Frozen):
    """A model whose encoder runs in integers alone, from token ids to the last norm; its head is in float32.

    ``dtype`` has no say here. Threads and batches change no bit of what the encoder gives.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        head = head_of(model)
        if head is None:
            raise Refused(
                f"a {type(model).__name__} has a head that integers are not known to stand in front of. Call the model itself: "
                "it gives nearly the same answers in floating point.",
                code="freeze-head",
            )
        self.integers = NativeIntegers(encoder_of(model))
        base = base_of(model)
        kept = {
            id(module): module
            for module in (base.embeddings, getattr(base, family_of(base.config.model_type).container))
        }
        own = copy.deepcopy(model, {key: torch.nn.Identity() for key in kept})  # the head's copy alone
        self.model, self.processor, self.dtype = own.eval().requires_grad_(False), processor, torch.float32
        self.labels: Mapping[int, str] = model.config.id2label
        self.first_position = first_position(model.config)
        self.head = head

    @torch.inference_mode()
    def logits(self, batch: Batch) -> Float[Tensor, "b c"]:
        """As of any frozen model."""
        if batch.lengths.numel() == 0:
            return torch.zeros(0, self.model.config.num_labels)
        assert self.head is not None
        positions = positions_of(batch.lengths, self.first_position)
        found = self.integers.run(batch.ids, positions, batch.kinds, batch.lengths, alone=True)
        states = (found.double() * self.integers.scale).float()
        return self.head(self.model, states[:, None])


def native_bf16() -> bool:
    """Whether this processor multiplies bfloat16 itself."""
    return prepacks(torch.bfloat16) and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _worth_asking(stack: Stack) -> Stack:
    """Drop a rule that can remove nothing the head would notice: the last layer works for the protected tokens anyway."""
    rule = stack.rule
    if rule is not None and not any(rule.prunes(layer) for layer in range(len(stack.left) - 1)):
        stack.rule = None
    return stack
