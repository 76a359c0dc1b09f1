"""Rules on attention and recurrent layers."""

import re

from sparsam.shapes.diagnose import sizes
from sparsam.shapes.diagnose.call import NUMBERS, Answer, Call, listed
from sparsam.shapes.diagnose.joining import mismatch
from sparsam.shapes.diagnose.rule import rule

ATTENTION = ("MultiheadAttention multi_head_attention_forward TransformerEncoderLayer TransformerDecoderLayer "
             "TransformerEncoder TransformerDecoder Transformer _native_multi_head_attention "
             "_transformer_encoder_layer_fwd")  # fmt: skip
RECURRENT = (
    "RNN LSTM GRU RNNCell LSTMCell GRUCell rnn_tanh rnn_relu lstm gru rnn_tanh_cell lstm_cell gru_cell"
)


@rule(
    "attention-heads", ATTENTION, says=r"embed_dim must be divisible by num_heads|not divisible by num_heads"
)
def attention_heads(call: Call) -> Answer | None:
    """A width that cannot be divided among the heads.

    Each head takes `embed_dim // num_heads` of the width, and nothing may be left.

    Fails:
    ```python
    nn.MultiheadAttention(embed_dim=768, num_heads=10)  # here
    ```

    Mended:
    ```python
    nn.MultiheadAttention(embed_dim=768, num_heads=12)
    ```
    """
    if not call.said("divisible"):
        return None
    width = call.number("embed_dim", "d_model") or next(iter(call.numbers), None)
    heads = call.number("num_heads", "nhead") or next(iter(call.numbers[1:]), None)
    if width is None or heads is None:
        return Answer(f"{call.words}: the width is no multiple of the number of heads")
    one, two = sizes.pretty(width), sizes.pretty(heads)
    return Answer(f"{call.words}: width {one} among {two} heads", f"{one} is no multiple of {two}")


@rule("attention-width", ATTENTION, says=r"was expecting embedding dimension|feature number of src and tgt")
def attention_width(call: Call) -> Answer | None:
    """The width of the tokens does not fit an attention layer.

    The last dimension of queries, keys and values is `embed_dim` (or `kdim`, `vdim`).

    Fails:
    ```python
    tokens = torch.rand(2, 5, 512)
    nn.TransformerEncoderLayer(768, 12, batch_first=True)(tokens)  # here
    ```

    Mended:
    ```python
    tokens = torch.rand(2, 5, 512)
    nn.TransformerEncoderLayer(512, 8, batch_first=True)(tokens)
    ```
    """
    said = call.said(r"embedding dimension of (\S+), but got (\S+)")
    given = call.shape()
    if said:
        got = given[-1] if given and call.equal(given[-1], said[2]) else said[2]
        of = f" of {sizes.shape(given)}" if given is not None else ""
        return Answer(
            f"last dimension{of} for {call.words}: got {sizes.pretty(got)}, expected {sizes.pretty(said[1])}",
            f"{sizes.pretty(got)}, {sizes.pretty(said[1])} asked",
        )
    if call.said("feature number of src and tgt"):
        shown = " and ".join(sizes.shape(o.shape) for o in call.tensors[:2] if o.shape is not None)
        return Answer(f"{call.words} of {shown}: the last dimensions are not d_model")
    return None


@rule(
    "attention-sizes",
    ATTENTION,
    "scaled_dot_product_attention _scaled_dot_product_attention_math "
    "_scaled_dot_product_flash_attention_for_cpu",
    says=r"attn_mask|key_padd|does not match value shape|batch number of src and tgt|batch1 and batch2",
)
def attention_sizes(call: Call) -> Answer | None:
    """Queries, keys, values or masks that do not fit each other.

    Queries (…, n, k), keys (…, m, k), values (…, m, v), mask (n, m) or what can be broadcast to (batch, heads, n, m).
    Layers without `batch_first=True` take the sequence first: (n, batch, width).

    Fails:
    ```python
    q, k, v = torch.rand(2, 12, 5, 64), torch.rand(2, 12, 7, 64), torch.rand(2, 12, 7, 64)
    F.scaled_dot_product_attention(q, k, v, attn_mask=torch.zeros(5, 5))  # here
    ```

    Mended:
    ```python
    q, k, v = torch.rand(2, 12, 5, 64), torch.rand(2, 12, 7, 64), torch.rand(2, 12, 7, 64)
    F.scaled_dot_product_attention(q, k, v, attn_mask=torch.zeros(5, 7))
    ```
    """
    said = call.said(rf"(?:shape of the (?:2D|3D) )?attn_mask is {NUMBERS}, but should be {NUMBERS}")
    if said:
        got, expected = sizes.shape(listed(said[1])), sizes.shape(listed(said[2]))
        return Answer(
            f"attn_mask of {call.words}: got {got}, expected {expected}", f"{got}, {expected} asked"
        )
    said = call.said(r"key_padd\w+\.shape\[(\d)\] to be (\S+), but got (\S+)")
    if said:
        got, expected = sizes.pretty(said[3]), sizes.pretty(said[2])
        return Answer(
            f"key_padding_mask of {call.words}: got {got}, expected {expected} in dimension {said[1]}",
            f"{got}, {expected} asked",
            "(batch, tokens), True where a token is padding",
        )
    said = call.said(
        rf"key shape {NUMBERS} does not match value shape {NUMBERS}|sequence and batch dims {NUMBERS} do not match value's"
    )
    if said and said[1] is not None:
        return Answer(
            f"{call.words}: keys {sizes.shape(listed(said[1]))} and values {sizes.shape(listed(said[2]))}",
            "keys and values differ",
        )
    shapes = [o.shape for o in call.tensors if o.shape is not None]
    shown = ", ".join(sizes.shape(shape) for shape in shapes[:4])
    if call.said("batch number of src and tgt"):
        return Answer(
            f"{call.words}{f' of {shown}' if shown else ''}: source and target of different batches",
            "",
            "batch_first=True, if the batch comes first",
        )
    if "scaled_dot_product_attention" not in call.name:
        if call.said(r"shape '\[.*' is invalid|batch") and len(shapes) > 1 and call.is_module:
            return Answer(
                f"{call.words} of {shown}: sequence or batch do not fit",
                "",
                "batch_first=True, if the batch comes first",
            )
        return None
    if len(shapes) < 3 or any(len(shape) < 2 for shape in shapes[:3]):
        return None
    query, key, value = shapes[:3]
    if not call.equal(query[-1], key[-1]):
        caret = f"widths {sizes.pretty(query[-1])} and {sizes.pretty(key[-1])}"
        return Answer(f"queries {sizes.shape(query)} and keys {sizes.shape(key)} of another width", caret)
    if not call.equal(key[-2], value[-2]):
        caret = f"{sizes.pretty(key[-2])} keys, {sizes.pretty(value[-2])} values"
        return Answer(f"keys {sizes.shape(key)} and values {sizes.shape(value)} of another number", caret)
    if len(shapes) > 3:
        scores = (*query[:-1], key[-2])
        if mismatch(call, [scores, shapes[3]]):
            return Answer(
                f"attn_mask {sizes.shape(shapes[3])} on scores {sizes.shape(scores)}: cannot broadcast",
                f"({sizes.pretty(query[-2])}, {sizes.pretty(key[-2])}) asked",
            )
    return (
        Answer(f"{call.words} of {shown}: batches or heads do not fit")
        if mismatch(call, [s[:-2] for s in shapes[:3]])
        else None
    )


@rule("rnn-width", RECURRENT, says=r"must be equal to input_size|inconsistent input_size")
def rnn_width(call: Call) -> Answer | None:
    """The width of the steps does not fit a recurrent layer.

    The last dimension of the input is `input_size`.

    Fails:
    ```python
    steps = torch.rand(5, 3, 9)
    nn.LSTM(input_size=10, hidden_size=20)(steps)  # here
    ```

    Mended:
    ```python
    steps = torch.rand(5, 3, 9)
    nn.LSTM(input_size=9, hidden_size=20)(steps)
    ```
    """
    said = call.said(
        r"equal to input_size\. Expected (\S+), got (\S+?)\.?$|inconsistent input_size: got (\S+),? expected (\S+)"
    )
    if not said:
        return None
    got, expected = said[2] or said[3], said[1] or said[4]
    given = call.shape()
    if given and call.equal(given[-1], got):
        got = given[-1]
    of = f" of {sizes.shape(given)}" if given is not None else ""
    return Answer(
        f"last dimension{of} for {call.words}: got {sizes.pretty(got)}, expected {sizes.pretty(expected)}",
        f"{sizes.pretty(got)}, {sizes.pretty(expected)} asked",
    )


@rule(
    "rnn-state",
    RECURRENT,
    says=r"Expected hidden|doesn't match hidden|hx should also be|inconsistent hidden_size|"
    r"For (un)?batched|Expected `len\(lengths\)`|Length of all samples",
)
def rnn_state(call: Call) -> Answer | None:
    """The state of a recurrent layer, or the lengths of its sequences, do not fit.

    The state is (layers × directions, batch, hidden), also with `batch_first=True`. A state made for one batch size does
    not fit the smaller last batch. `pack_padded_sequence` takes a length of at least 1 for each sequence.

    Fails:
    ```python
    steps, state = torch.rand(5, 3, 10), torch.zeros(1, 4, 20)
    nn.GRU(10, 20)(steps, state)  # here
    ```

    Mended:
    ```python
    steps, state = torch.rand(5, 3, 10), torch.zeros(1, 3, 20)
    nn.GRU(10, 20)(steps, state)
    ```
    """
    said = call.said(rf"Expected (hidden\S*) size {NUMBERS}, got {NUMBERS}")
    if said:
        got, expected = listed(said[3]), listed(said[2])
        states = [o.shape for o in call.tensors[1:] if o.shape is not None]
        got = list(next((s for s in states if len(s) == len(got) and all(map(call.equal, s, got))), got))
        fix = ""
        if (
            len(got) == len(expected) == 3
            and call.equal(got[1], expected[0])
            and call.equal(got[0], expected[1])
        ):
            fix = "the batch is dimension 1 of the state, also with batch_first=True"
        if any(re.search(r"%|Mod\(", size) for size in expected):
            fix = "the last batch is smaller: drop_last=True in the data loader, or a state of its size"
        return Answer(
            f"state of {call.words}: got {sizes.shape(got)}, expected {sizes.shape(expected)}",
            f"{sizes.shape(got)}, {sizes.shape(expected)} asked",
            fix,
        )
    said = call.said(r"Input batch size (\S+) doesn't match hidden\S* batch size (\S+)")
    if said:
        one, two = sizes.pretty(said[1]), sizes.pretty(said[2])
        return Answer(
            f"state of {call.words}: a batch of {two}, the input's is {one}", f"{one} against {two}"
        )
    said = call.said(r"hidden\S* has inconsistent hidden_size: got (\S+), expected (\S+)")
    if said:
        has, wants = sizes.pretty(said[1].rstrip(",")), sizes.pretty(said[2].rstrip("."))
        return Answer(f"state of {call.words}: {has} features, expected {wants}", f"{has}, {wants} asked")
    said = call.said(
        r"hx should also be (\S+) but got (\S+) tensor|to be equal to batch_size, but got (\S+) \(batch_size=(\S+)\)"
    )
    if said and said[1]:
        return Answer(
            f"state of {call.words}: got {said[2]}, expected {said[1]}", f"{said[2]}, {said[1]} asked"
        )
    if said:
        return Answer(
            f"{call.words}: {said[3]} lengths for a batch of {said[4]}", f"{said[3]} against {said[4]}"
        )
    if call.said("Length of all samples"):
        return Answer(f"{call.words}: a sequence of length 0", "", "lengths.clamp(min=1)")
    return None
