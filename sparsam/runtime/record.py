"""A real run of a model as a :class:`~sparsam.workload.Workload`: each product with the numbers that went into it.

Hooks see the run, and each layer is written when it has run, so that one layer's operands are in memory at a time. What is
seen:

    linear        ``nn.Linear`` and transformers' ``Conv1D`` (a linear layer in spite of its name): a Gemm
    convolution   ``nn.Conv2d``; ``nn.Conv1d`` as one of height 1
    attention     of a lifted encoder at its ``attend`` seam, where tokens and heads may be gone; of any other model where it
                  calls ``F.scaled_dot_product_attention``; of ``nn.MultiheadAttention`` from its inputs, its projections too

In training each linear layer and convolution has three products (Y = A W in the forward pass; the gradients of A and W):

    forward       A (m, k)     W (n, k)
    grad_input    G (m, n)     W (k, n), transposed
    grad_weight   G (n, m)     A (k, m), both transposed

The gradient of a convolution's input is one convolution for each phase of its stride, so that no zeros are put between
gradients; that of its weights is a product whose sum runs over output positions. Gradients inside attention are left out, and
so is whatever multiplies in another way; :attr:`Recorder.left_out` names what was met.

Operands are int8 (activations: one scale a tensor; weights: one an output) or bfloat16. Integers of a plan stay as they are.
Rounding to int8 makes zeros of small numbers: a trace in bfloat16 has the model's own zeros alone.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from sparsam import workload
from sparsam.errors import Refused, Usage
from sparsam.models import is_lifted, plan_of, stack_of
from sparsam.models.encoder import DEAD, Stack
from sparsam.models.integers import integers_of, scales_of
from sparsam.packed import Packed
from sparsam.workload import Attention, Conv, Gemm, Layer, Workload, Writer, bf16_bits

FORMATS = ("int8", "bf16")

LEFT_OUT = (
    nn.Conv3d,
    nn.modules.conv._ConvTransposeNd,
    nn.Bilinear,
    nn.RNNBase,
    nn.RNNCellBase,
)
"""Modules that multiply and are not recorded."""

Loss = Callable[[nn.Module, Any], Tensor]


def record(
    model: nn.Module,
    batches: Iterable[Any],
    folder: str | Path,
    *,
    format: str | None = None,
    train: bool = False,
    loss: Loss | None = None,
    rows: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Workload:
    """Run a model on batches and write what it did; the folder is written whole or not at all.

    The model is given back as it came: its mode, gradients and buffers. Weights are not changed, in training neither.

    Args:
        model: any module; lifted or stock.
        batches: mappings (the model's keyword arguments), sequences (its arguments) or tensors (its one argument).
        folder: of the trace.
        format: ``int8`` or ``bf16``; by default bf16 in training (gradients span too many orders for eight bits), else int8.
        train: run in training mode and backwards, too.
        loss: of the model on a batch; by default the ``loss`` that the model's own answer holds.
        rows: use so many of the batches' rows, and no more.
        facts: about the run, for the index.

    Raises:
        Refused: ``workload-not-finite`` with the layer's name, ``workload-empty`` if no layer was met.
        Usage: ``trace-format``, ``trace-rows``, ``trace-loss``, ``trace-folder``.
    """
    format = format or ("bf16" if train else "int8")
    if rows is not None and rows < 1:
        raise Usage(f"a trace is of at least one row; got rows={rows}.", code="trace-rows")
    done = 0
    with Writer(folder, facts) as out, _as_it_was(model), Recorder(model, out, format=format) as seen:
        model.train(train)
        for batch in batches:
            part = batch if rows is None else _first(batch, rows - done)
            done += _rows_of(part)
            if train:
                with torch.enable_grad():
                    (loss or _own_loss)(model, part).backward()
                model.zero_grad(set_to_none=True)
            else:
                with torch.no_grad():
                    answer(model, part)
            if rows is not None and done >= rows:
                break
        if not out.entries:
            raise Refused(
                f"no product of this {type(model).__name__} was seen: no batch ran, or it has no linear layer, convolution or "
                "attention that sparsam knows.",
                code="workload-empty",
            )
        out.facts |= {"rows": done, "train": train} | seen.facts()
    return Workload.load(folder)


def answer(model: nn.Module, batch: Any) -> Any:
    """The model's answer to a batch, whatever form it has."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)


def _own_loss(model: nn.Module, batch: Any) -> Tensor:
    found = getattr(answer(model, batch), "loss", None)
    if not isinstance(found, Tensor):
        raise Usage(
            f"this {type(model).__name__} gives no loss. Put labels into the batches, or give loss=, a function of model and "
            "batch.",
            code="trace-loss",
        )
    return found


def _tensors(batch: Any) -> list[Tensor]:
    parts = (
        batch.values()
        if isinstance(batch, Mapping)
        else batch
        if isinstance(batch, tuple | list)
        else [batch]
    )
    return [x for x in parts if isinstance(x, Tensor) and x.dim()]


def _rows_of(batch: Any) -> int:
    return next((int(x.shape[0]) for x in _tensors(batch)), 0)


def _first(batch: Any, count: int) -> Any:
    """The first rows of every tensor that has as many as the batch."""
    whole = _rows_of(batch)

    def cut(x: Any) -> Any:
        return x[:count] if isinstance(x, Tensor) and x.dim() and x.shape[0] == whole else x

    if isinstance(batch, Mapping):
        return {name: cut(x) for name, x in batch.items()}
    return [cut(x) for x in batch] if isinstance(batch, tuple | list) else cut(batch)


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Afterwards a model's modes, gradients and buffers are as they were (norms count batches while they train)."""
    modes = [(part, part.training) for part in model.modules()]
    gradients = [(p, p.grad) for p in model.parameters()]
    buffers = [(x, x.detach().clone()) for x in model.buffers()]
    for p, _ in gradients:
        p.grad = None
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        for p, gradient in gradients:
            p.grad = gradient
        with torch.no_grad():
            for x, kept in buffers:
                if not torch.equal(x, kept):
                    x.copy_(kept)


class Recorder:
    """Watches a model while the block runs and adds each layer to a writer, gradients too where there are some.

    Args:
        model: any module.
        out: an opened writer.
        format: of the operands, ``int8`` or ``bf16``.

    Raises:
        Usage: ``trace-format``.
    """

    def __init__(self, model: nn.Module, out: Writer, *, format: str = "int8") -> None:
        if format not in FORMATS:
            raise Usage(f"format is one of {', '.join(FORMATS)}; got {format!r}.", code="trace-format")
        self.model, self.out, self.format = model, out, format
        self.left_out: dict[str, str] = {}
        self.kept_integers: set[str] = set()
        self._names = {id(part): name or type(part).__name__ for name, part in model.named_modules()}
        self._calls: dict[str, int] = {}
        self._last = ""
        self._inside = False
        self._undo = ExitStack()

    def facts(self) -> dict[str, Any]:
        """What was recorded and what not, for the index."""
        import transformers

        from sparsam import __version__

        plan = plan_of(self.model)
        return {
            "architecture": type(self.model).__name__,
            "format": self.format,
            "macs": sum(int(one["macs"]) for one in self.out.entries),
            "plan": None if plan is None else plan.to_json(),
            "integers_of_the_plan": sorted(self.kept_integers),
            "left_out": [{"layer": name, "why": why} for name, why in self.left_out.items()],
            "versions": {
                "sparsam": __version__, "torch": torch.__version__, "transformers": transformers.__version__,
                "python": platform.python_version(),
            },
        }  # fmt: skip

    def __enter__(self) -> "Recorder":
        kinds: tuple[tuple[Any, Callable[..., None]], ...] = (
            ((nn.Linear, Conv1D), self._linear),
            ((nn.Conv1d, nn.Conv2d), self._convolution),
            (nn.MultiheadAttention, self._multihead),
            (LEFT_OUT, self._passed_over),
        )
        for part in self.model.modules():
            for kind, hook in kinds:
                if isinstance(part, kind):
                    handle = part.register_forward_hook(
                        partial(self._outside_backward, hook), with_kwargs=True
                    )
                    self._undo.callback(handle.remove)
                    break
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # it would pass over the parts of a layer
        self._undo.callback(torch.backends.mha.set_fastpath_enabled, fast)
        if is_lifted(self.model):
            self._watch(stack_of(self.model))
        self._undo.enter_context(_Calls(self))
        return self

    def __exit__(self, *of_error: object) -> None:
        self._undo.close()

    def _outside_backward(self, hook: Callable[..., None], *args: Any) -> None:
        """Run a hook, but not where gradient checkpointing works activations out a second time."""
        if torch._C._current_graph_task_id() == -1:
            hook(*args)

    # names and operands

    def _numbered(self, name: str) -> str:
        """The layer's name, with a number from its second call on."""
        self._calls[name] = self._calls.get(name, 0) + 1
        return name if self._calls[name] == 1 else f"{name}#{self._calls[name]}"

    def _operand(self, name: str, what: str, x: Tensor, *, per_row: bool = False) -> workload.Tensor:
        """A tensor in the trace's format.

        Raises:
            Refused: ``workload-not-finite``, naming the layer and the first place.
        """
        found = x.detach().float().cpu()
        if not bool(finite := torch.isfinite(found).all()):
            bad = ~torch.isfinite(found)
            at = tuple(bad.nonzero()[0].tolist())
            raise Refused(
                f"{name}: {int(bad.sum())} of {bad.numel()} numbers of its {what} are infinite or NaN, the first at {at}: "
                f"{float(found[at])}. Look for what went wrong in the model before it, or leave such rows out.",
                code="workload-not-finite",
            )
        del finite
        array = found.numpy()
        if self.format == "int8":
            return workload.rounded(array, 8, per_row=per_row)
        try:
            return workload.Tensor(bf16_bits(array), "bf16")
        except Refused as error:  # finite in float32, beyond bfloat16
            raise Refused(f"{name}: of its {what} {error}", code=error.code) from error

    def _weight(self, name: str, module: Any, weight: Tensor) -> workload.Tensor:
        """A module's weights, (o, …); a plan's integers as they are."""
        scales = scales_of(module)
        if self.format == "int8" and scales is not None and weight is module.weight:
            self.kept_integers.add(self._names[id(module)])
            return workload.Tensor(
                integers_of(module).cpu().numpy(), "int8", scales.detach().float().cpu().numpy()
            )
        return self._operand(name, "weights", weight, per_row=True)

    def _add(self, layer: Layer) -> None:
        self.out.add(layer)

    # linear layers

    def _linear(self, module: Any, args: Any, kwargs: Any, output: Tensor) -> None:
        x: Tensor = args[0] if args else next(iter(kwargs.values()))
        weight = module.weight.T if isinstance(module, Conv1D) else module.weight
        self._last = self._names[id(module)]
        self._product(self._last, module, x, weight, output)

    def _product(self, name: str, module: Any, x: Tensor, weight: Tensor, output: Tensor | None) -> None:
        """``x`` (…, k) times ``weight`` (n, k); its gradients when they come, if ``output`` leads to them."""
        rows = x.detach().reshape(-1, x.shape[-1]) if x.numel() else x.detach().new_zeros(0, x.shape[-1])
        if 0 in (*rows.shape, weight.shape[0]):
            return  # nothing is multiplied where all heads, filters or tokens are gone
        name = self._numbered(name)
        self._add(Gemm(name, self._operand(name, "input", rows), self._weight(name, module, weight)))
        if output is not None and output.requires_grad:
            wanted = x.requires_grad, module.weight.requires_grad
            back = partial(self._linear_back, name, rows if wanted[1] else None, weight, wanted[0])
            output.register_hook(back)

    def _linear_back(
        self, name: str, rows: Tensor | None, weight: Tensor, to_input: bool, gradient: Tensor
    ) -> None:
        g = gradient.detach().reshape(-1, gradient.shape[-1])  # (m, n)
        if to_input:
            a, b = self._operand(name, "gradient", g), self._operand(name, "weights", weight.T, per_row=True)
            self._add(Gemm(name, a, b, "grad_input"))
        if rows is not None:
            a, b = self._operand(name, "gradient", g.T), self._operand(name, "input", rows.T)
            self._add(Gemm(name, a, b, "grad_weight"))

    # convolutions

    def _convolution(self, module: Any, args: Any, kwargs: Any, output: Tensor) -> None:
        x: Tensor = args[0] if args else next(iter(kwargs.values()))
        name = self._last = self._names[id(module)]
        of = _Window(module)
        images = of.padded(x.detach())
        if not images.numel() or not output.numel():
            return
        name = self._numbered(name)
        weight = of.weight
        operand = self._weight(name, module, module.weight)
        if operand.shape != tuple(weight.shape):
            operand = workload.Tensor(
                operand.values.reshape(tuple(weight.shape)), operand.format, operand.scale
            )
        self._add(
            Conv(
                name, self._operand(name, "input", images), operand, of.stride, of.padding, of.dilation, module.groups
            )
        )  # fmt: skip
        if output.requires_grad:
            kept = images if module.weight.requires_grad else None
            shape = (int(images.shape[2]), int(images.shape[3]))
            back = partial(self._convolution_back, name, kept, of, shape, x.requires_grad)
            output.register_hook(back)

    def _convolution_back(
        self,
        name: str,
        images: Tensor | None,
        of: "_Window",
        shape: tuple[int, int],
        to_input: bool,
        gradient: Tensor,
    ) -> None:
        g = of.four(gradient.detach())  # (b, o, oh, ow)
        if to_input:
            self._input_gradient(name, of, shape, g)
        if images is not None:
            self._weight_gradient(name, of, images, g)

    def _input_gradient(self, name: str, of: "_Window", shape: tuple[int, int], g: Tensor) -> None:
        """One convolution of stride 1 for each phase of the input's places, over the part of the kernel that meets it."""
        weight, groups = of.weight.detach(), of.groups
        o, per, kh, kw = weight.shape
        turned = weight.view(groups, o // groups, per, kh, kw).transpose(1, 2)  # (g, c / g, o / g, kh, kw)
        turned = turned.reshape(groups * per, o // groups, kh, kw)
        gradient = self._operand(name, "gradient", g)
        for i, j in product(range(of.stride[0]), range(of.stride[1])):
            rows, columns = (
                _phase(axis, at, of, shape[axis], int(g.shape[2 + axis]), (kh, kw)[axis])
                for axis, at in ((0, i), (1, j))
            )
            if rows is None or columns is None:
                continue  # the input's places of this phase reach no output
            part = turned[:, :, rows.taps][..., columns.taps].flip(2, 3)
            values = gradient.values
            for axis, phase in ((2, rows), (3, columns)):
                values = _reframed(values, axis, phase.before, phase.after)
            where = f"{name}[{i},{j}]" if of.stride != (1, 1) else name
            self._add(
                Conv(
                    where,
                    workload.Tensor(values, gradient.format, gradient.scale),
                    self._operand(name, "weights", part, per_row=True),
                    (1, 1),
                    (rows.padding, columns.padding),
                    (rows.dilation, columns.dilation),
                    groups,
                    "grad_input",
                )
            )

    def _weight_gradient(self, name: str, of: "_Window", images: Tensor, g: Tensor) -> None:
        """For each group outputs times the kernel's places and channels; the sum runs over the images' output positions."""
        x, gradient = self._operand(name, "input", images), self._operand(name, "gradient", g)
        o = int(g.shape[1])
        kernel = workload.Tensor(np.zeros(tuple(of.weight.shape), x.values.dtype), x.format)
        seen = Conv(name, x, kernel, of.stride, of.padding, of.dilation, of.groups)
        each = o // of.groups
        for group, one in enumerate(seen.products()):
            mine = gradient.values[:, group * each : (group + 1) * each]
            rows = np.ascontiguousarray(mine.transpose(1, 0, 2, 3).reshape(each, -1))  # (o / g, b oh ow)
            a = workload.Tensor(rows, gradient.format, gradient.scale)
            b = workload.Tensor(np.ascontiguousarray(one.a.values.T), x.format, x.scale)
            self._add(Gemm(one.name, a, b, "grad_weight"))

    # attention

    def _watch(self, stack: Stack) -> None:
        """See a lifted encoder's attention at its seam, and which tokens it is given."""
        run, attend, before = stack.run, stack.attend, stack.states
        states, start = _Newest(), _Newest()
        layer = [0]

        def running(tokens: Packed) -> Any:
            start.append(tokens)
            layer[0] = 0
            states.clear()
            return run(tokens)

        def attending(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], **more: Any) -> Any:
            if torch._C._current_graph_task_id() == -1:
                at, layer[0] = layer[0], layer[0] + 1
                tokens = None
                if at and start:
                    tokens = _places(start[-1], states[-1])
                self._lifted_attention(q, k, v, lengths, stack.left[at].heads, tokens, more)
            inside, self._inside = self._inside, True
            try:
                return attend(q, k, v, lengths, **more)
            finally:
                self._inside = inside

        stack.run = running  # type: ignore[method-assign]
        stack.attend, stack.states = attending, states

        def undo() -> None:
            del stack.run
            stack.attend, stack.states = attend, before

        self._undo.callback(undo)

    def _lifted_attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        lengths: Sequence[int],
        heads: tuple[int, ...] | None,
        tokens: NDArray[np.int64] | None,
        more: Mapping[str, Any],
    ) -> None:
        """One layer's attention as the seam is given it. ``heads`` are the dense model's that the layer has left."""
        by_key, by_pair, positions = (more.get(key) for key in ("key_bias", "pair_bias", "positions"))
        bias = None
        if by_key is not None or by_pair is not None:
            parts, start = [], 0
            for n in lengths:
                span = slice(start, start + n)
                start += n
                pair = q.new_zeros(q.shape[1], n, n, dtype=torch.float32)
                if by_pair is not None and positions is not None:
                    pair = pair + by_pair(positions[span].unsqueeze(0))[0].float()
                parts.append((pair if by_key is None else pair + by_key[span].float()).flatten())
            bias = torch.cat(parts) if parts else None
        self._attention(q, k, v, lengths, float(more["scale"]), tokens=tokens, heads=heads, bias=bias)

    def _attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        lengths: Sequence[int],
        scale: float,
        *,
        tokens: NDArray[np.int64] | None = None,
        heads: tuple[int, ...] | None = None,
        causal: bool = False,
        bias: Tensor | None = None,
        name: str | None = None,
    ) -> None:
        """q, k, v (t, h, k) of sequences of these lengths, end to end."""
        if not v.shape[0] or not v.shape[1]:
            return
        name = self._numbered(name or self._last.rpartition(".")[0] or "attention")
        living = np.asarray([n for n in lengths if n], np.int64)
        self._add(
            Attention(
                name,
                self._operand(name, "queries", q),
                self._operand(name, "keys", k),
                self._operand(name, "values", v),
                living,
                scale,
                tokens=tokens,
                heads=heads,
                causal=causal,
                bias=None if bias is None else bias.detach().float().cpu().numpy(),
            )
        )
        if torch.is_grad_enabled() and q.requires_grad:
            self.left_out[f"{name} (gradients)"] = "gradients inside attention are not recorded"

    def padded_attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        scale: float | None,
        causal: bool,
        name: str | None = None,
    ) -> None:
        """q, k, v (b, h, n, k) and a mask that says which keys are seen, or is added. Tokens that nobody sees are left out."""
        if self._inside:
            return
        where = name or self._last.rpartition(".")[0] or "attention"
        if q.dim() != 4 or q.shape[2] != k.shape[2] or q.shape[0] != k.shape[0]:
            self.left_out[where] = (
                f"attention of {tuple(q.shape)} over {tuple(k.shape)}: queries and keys are not of the same tokens"
            )
            return
        b, h, n, width = q.shape
        if k.shape[1] != h:  # a key head serves several query heads
            k, v = (x.repeat_interleave(h // x.shape[1], 1) for x in (k, v))
        scale = width**-0.5 if scale is None else scale
        bias: Tensor | None = None
        living = q.new_ones(b, n, dtype=torch.bool)
        if mask is not None:
            added = mask.detach().float() if mask.dtype != torch.bool else None
            seen = mask if added is None else added > DEAD
            seen = seen.expand(b, h, n, n) if mask.dim() == 4 else seen.expand(b, h, n, n).contiguous()
            living = seen.any(1).any(1)
            both = living[:, None, :, None] & living[:, None, None, :]
            below = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
            plain = added is None or not bool((added.expand(b, h, n, n)[seen & both] != 0).any())
            if plain and bool((seen | ~both).all()):
                pass
            elif plain and bool(((seen == below) | ~both).all()):
                causal = True
            else:
                whole = (
                    torch.zeros(b, h, n, n, device=q.device) if added is None else added.expand(b, h, n, n)
                )
                bias = whole.masked_fill(~seen, float("-inf"))
        lengths = living.sum(1).tolist()
        q, k, v = (x.transpose(1, 2)[living] for x in (q, k, v))  # (t, h, k)
        flat = None
        if bias is not None:
            flat = torch.cat(
                [one[:, keep][:, :, keep].flatten() for one, keep in zip(bias, living, strict=True)]
            )
        self._attention(q, k, v, lengths, float(scale), causal=causal, bias=flat, name=where)

    def softmax_seen(self, x: Any) -> None:
        """A softmax outside of what is recorded: perhaps attention that nobody sees."""
        square = isinstance(x, Tensor) and (x.dim() > 3 or (x.dim() == 3 and x.shape[1] == x.shape[2]))
        if square and not self._inside:
            self.left_out.setdefault(
                self._last.rpartition(".")[0] or "attention",
                "a softmax as of attention by separate products, which are not seen; load the model with "
                "attn_implementation='sdpa', or lift it",
            )

    def _multihead(self, module: nn.MultiheadAttention, args: Any, kwargs: Any, output: Any) -> None:
        """``nn.MultiheadAttention`` calls no module for its products: they are worked out from its inputs."""
        names = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask")
        given = dict(zip(names, args, strict=False)) | kwargs
        name = self._names[id(module)]
        query, key, value = (given[part] for part in ("query", "key", "value"))
        odd = module.bias_k is not None or module.add_zero_attn or query.dim() != 3
        if odd or query.shape != key.shape:
            self.left_out[name] = "multi-head attention across two sequences, unbatched, or with added keys"
            return
        if not module.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        if module._qkv_same_embed_dim:
            weights: Any = module.in_proj_weight.chunk(3)
        else:
            weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
        biases = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
        b, n, _ = query.shape
        heads: list[Tensor] = []
        with torch.no_grad():
            for part, x, weight, added in zip("qkv", (query, key, value), weights, biases, strict=True):
                rows = self._numbered(f"{name}.{part}")
                self._add(
                    Gemm(
                        rows,
                        self._operand(rows, "input", x.reshape(b * n, -1)),
                        self._operand(rows, "weights", weight, per_row=True),
                    )
                )
                heads.append(F.linear(x, weight, added).view(b, n, module.num_heads, -1).transpose(1, 2))
            mask = _joined_mask(given.get("attn_mask"), given.get("key_padding_mask"), b, module.num_heads, n)
            causal = bool(given.get("is_causal")) and mask is None
            q, k, v = heads
            self.padded_attention(q, k, v, mask, None, causal, name=name)
            self._inside = True
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
            self._inside = False
            self._product(
                f"{name}.out_proj", module.out_proj, mixed.transpose(1, 2).flatten(2), module.out_proj.weight, None
            )  # fmt: skip
        first = output[0] if isinstance(output, tuple) else output
        if first.requires_grad:
            self.left_out[f"{name} (gradients)"] = "gradients inside multi-head attention are not recorded"

    def _passed_over(self, module: nn.Module, *_: Any) -> None:
        self.left_out[self._names[id(module)]] = f"{type(module).__name__} is not recorded"


class _Calls(TorchFunctionMode):
    """Sees calls of attention and softmax, wherever they come from."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        seen = torch._C._current_graph_task_id() == -1
        if func is F.scaled_dot_product_attention and seen:
            names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
            given = dict(zip(names, args, strict=False)) | kwargs
            self.recorder.padded_attention(
                given["query"], given["key"], given["value"], given.get("attn_mask"), given.get("scale"),
                bool(given.get("is_causal", False)),
            )  # fmt: skip
        elif func in (F.softmax, torch.softmax, Tensor.softmax) and seen:
            self.recorder.softmax_seen(args[0] if args else kwargs.get("input"))
        return func(*args, **kwargs)


class _Newest(list[Packed]):
    """Keeps the last of what is appended."""

    def append(self, item: Packed) -> None:
        self[:] = [item]


def _places(start: Packed, now: Packed) -> NDArray[np.int64]:
    """The place of each token that is left among those its sequence had at the start."""
    first = torch.cumsum(start.lengths, 0) - start.lengths
    found = torch.searchsorted(start.rows, now.rows) - first[now.sequences]
    return np.asarray(found.cpu().numpy(), np.int64)


def _joined_mask(pairs: Tensor | None, padding: Tensor | None, b: int, h: int, n: int) -> Tensor | None:
    """The two masks of ``nn.MultiheadAttention``, where True hides, as one (b, h, n, n) that is added."""
    total: Tensor | None = None
    for mask, shape in ((pairs, None), (padding, (b, 1, 1, n))):
        if mask is None:
            continue
        if shape is None:
            shape = (1, 1, n, n) if mask.dim() == 2 else (b, h, n, n)
        added = torch.zeros_like(mask, dtype=torch.float32)
        added = added.masked_fill(mask, float("-inf")) if mask.dtype == torch.bool else mask.float()
        total = added.view(shape) if total is None else total + added.view(shape)
    return None if total is None else total.expand(b, h, n, n)


class _Window:
    """A convolution's weights and steps, in two dimensions whatever it has; padding that zeros cannot tell is done here."""

    def __init__(self, module: Any) -> None:
        self.module, self.flat = module, isinstance(module, nn.Conv1d)
        self.groups = int(module.groups)
        sizes = module.padding
        self.before = module.padding_mode != "zeros"
        if sizes == "valid":
            sizes = (0,) * len(module.kernel_size)
        elif sizes == "same":
            reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
            self.before = self.before or any(total % 2 for total in reach)
            sizes = tuple(total // 2 for total in reach)
        self.stride = self._two(module.stride, 1)
        self.dilation = self._two(module.dilation, 1)
        self.padding = (0, 0) if self.before else self._two(sizes, 0)

    def _two(self, sizes: Sequence[int], of_height: int) -> tuple[int, int]:
        return (of_height, int(sizes[0])) if self.flat else (int(sizes[0]), int(sizes[1]))

    @property
    def weight(self) -> Tensor:
        """(o, c / groups, kh, kw)."""
        found: Tensor = self.module.weight
        return found.unsqueeze(2) if self.flat else found

    def four(self, x: Tensor) -> Tensor:
        """(b, c, h, w), whether or not there is a batch and a height."""
        if x.dim() == (2 if self.flat else 3):
            x = x.unsqueeze(0)
        return x.unsqueeze(2) if self.flat else x

    def padded(self, x: Tensor) -> Tensor:
        """The images that the convolution reads with :attr:`padding` zeros around them."""
        if self.before:
            mode = self.module.padding_mode
            x = F.pad(
                x, self.module._reversed_padding_repeated_twice, mode="constant" if mode == "zeros" else mode
            )
        return self.four(x)


class _Phase:
    """Along one axis: which taps meet the input's places of a phase, and how gradients are framed for them."""

    def __init__(self, taps: list[int], dilation: int, before: int, after: int) -> None:
        self.taps, self.dilation = taps, dilation
        self.padding = max(0, min(before, after))
        self.before, self.after = before - self.padding, after - self.padding


def _phase(axis: int, at: int, of: _Window, size: int, out: int, taps: int) -> _Phase | None:
    """The gradients that places ``at``, ``at`` + stride, … of the input get: ``out`` gradients, ``size`` places.

    Place i is read at output o by tap t where i = stride · o + dilation · t - padding; with i fixed modulo the stride every
    e-th tap serves, e = stride / gcd(stride, dilation), and from tap to tap the output moves back by dilation · e / stride.
    """
    stride, dilation, padding = of.stride[axis], of.dilation[axis], of.padding[axis]
    mine = [t for t in range(taps) if (at + padding - dilation * t) % stride == 0]
    places = -(-(size - at) // stride)
    if not mine or places < 1:
        return None
    e = stride // gcd(stride, dilation)
    step = dilation * e // stride
    first = (at + padding - dilation * mine[0]) // stride - step * (
        len(mine) - 1
    )  # the lowest output that place 0 meets
    last = first + step * (len(mine) - 1) + places - 1
    return _Phase(mine, step, -first, last - (out - 1))


def _reframed(x: NDArray[Any], axis: int, before: int, after: int) -> NDArray[Any]:
    """Zeros added at either end of an axis, or as many numbers taken away where the count is negative."""
    whole = x.shape[axis]
    kept = slice(max(0, -before), whole - max(0, -after))
    cut = x[(slice(None),) * axis + (kept,)]
    widths = [(0, 0)] * x.ndim
    widths[axis] = (max(0, before), max(0, after))
    return np.ascontiguousarray(np.pad(cut, widths))
