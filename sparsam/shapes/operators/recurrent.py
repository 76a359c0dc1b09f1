"""Recurrent layers and cells, which the framework runs for plain sizes only."""

from typing import Any

import torch

from sparsam.shapes import whole
from sparsam.shapes.environment import symbolic
from sparsam.shapes.run import Run

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def _symbolic(*tensors: Any) -> bool:
    return any(
        symbolic(size) for tensor in tensors if isinstance(tensor, torch.Tensor) for size in tensor.shape
    )


def cell(gates: int) -> Any:
    """A rule for one step: (batch, inputs) and (batch, hidden) through both weights."""

    def rule(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inputs, state, w_ih, w_hh, *biases = args
        hidden = state[0] if isinstance(state, (list, tuple)) else state
        if not _symbolic(inputs, hidden, w_ih):
            return NotImplemented
        b_ih, b_hh = (*biases, None, None)[:2]
        memory = state[1] if isinstance(state, (list, tuple)) else hidden
        torch._check(
            inputs.shape[1] == w_ih.shape[1],
            lambda: f"input has inconsistent input_size: got {inputs.shape[1]} expected {w_ih.shape[1]}",
        )
        torch._check(
            inputs.shape[0] == hidden.shape[0],
            lambda: f"Input batch size {inputs.shape[0]} doesn't match hidden batch size {hidden.shape[0]}",
        )
        torch._check(
            hidden.shape[1] == w_hh.shape[1],
            lambda: f"hidden has inconsistent hidden_size: got {hidden.shape[1]}, expected {w_hh.shape[1]}",
        )
        made = torch.nn.functional.linear(inputs, w_ih, b_ih) + torch.nn.functional.linear(hidden, w_hh, b_hh)
        after = made[:, : made.shape[1] // gates]
        if gates != 4:
            return after
        torch._check(
            memory.shape[0] == hidden.shape[0] and memory.shape[1] == after.shape[1],
            lambda: f"cell state of {tuple(memory.shape)} for {tuple(after.shape)}",
        )
        return after, memory * after

    return rule


def layers(name: str) -> Any:
    """A rule for a whole layer: over (time, batch, inputs), or packed (elements, inputs)."""
    gates = GATES[name]

    def rule(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        packed = isinstance(args[1], torch.Tensor) and len(args) > 3 and isinstance(args[3], (list, tuple))
        if packed:
            inputs, sizes, state, weights, biased, count, _, _, both = args
            batch_first = False
        else:
            inputs, state, weights, biased, count, _, _, both, batch_first = args
            sizes = None
        states = list(state) if isinstance(state, (list, tuple)) else [state]
        if not packed and not _symbolic(inputs, *states):
            return NotImplemented  # packed, the framework asks for the lengths, which are data
        if batch_first:
            inputs = inputs.transpose(0, 1)
        made = whole.recurrent(
            run,
            inputs,
            states,
            weights,
            biased=biased,
            layers=count,
            directions=2 if both else 1,
            gates=gates,
            unpacked=sizes is None,
        )
        if made is NotImplemented:
            made = _run(inputs, states, list(weights), biased, count, both, gates, sizes is None)
        outputs, last = made
        if batch_first:
            outputs = outputs.transpose(0, 1)
        return (outputs, *last)

    return rule


def _run(
    inputs: torch.Tensor,
    states: list[torch.Tensor],
    weights: list[torch.Tensor],
    biased: bool,
    count: int,
    both: bool,
    gates: int,
    unpacked: bool,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    directions = 2 if both else 1
    each = len(weights) // (count * directions)
    projected = each in (3, 5)
    if unpacked:
        torch._check(inputs.shape[0] > 0, lambda: "Expected sequence length to be larger than 0 in RNN")
    last: list[list[torch.Tensor]] = [[] for _ in states]
    for layer in range(count):
        outputs = []
        for direction in range(directions):
            number = layer * directions + direction
            parameters = weights[number * each : (number + 1) * each]
            w_ih, w_hh = parameters[:2]
            b_ih, b_hh = parameters[2:4] if biased else (None, None)
            hidden = states[0][number]
            step = torch.nn.functional.linear(hidden, w_hh, b_hh)
            made = torch.nn.functional.linear(inputs, w_ih, b_ih)
            if unpacked:
                torch._check(
                    made.shape[1] == step.shape[0],
                    lambda made=made, step=step: (
                        f"Expected hidden batch size {made.shape[1]}, got {step.shape[0]}"
                    ),
                )
                made = made + step
            width = made.shape[-1] // gates
            made = made[..., :width]
            if gates == 4:
                memory = states[1][number]
                torch._check(
                    memory.shape[-1] == width,
                    lambda memory=memory, width=width: f"Expected cell size {width}, got {memory.shape[-1]}",
                )
                last[1].append(memory * 1)
            if projected:
                made = torch.nn.functional.linear(made, parameters[-1])
            outputs.append(made)
            last[0].append(hidden * 1)
        inputs = torch.cat(outputs, -1) if directions == 2 else outputs[0]
    return inputs, [torch.stack(group) for group in last]


RULES = {
    getattr(torch, name): rule
    for name, rule in (
        ("lstm", layers("lstm")),
        ("gru", layers("gru")),
        ("rnn_tanh", layers("rnn_tanh")),
        ("rnn_relu", layers("rnn_relu")),
        ("lstm_cell", cell(4)),
        ("gru_cell", cell(3)),
        ("rnn_tanh_cell", cell(1)),
        ("rnn_relu_cell", cell(1)),
    )
}
