"""Rules on dtypes and devices. They come first in the table: their sentences leave no doubt what is meant."""

import re

from sparsam.shapes.diagnose import sizes
from sparsam.shapes.diagnose.call import Answer, Call
from sparsam.shapes.diagnose.rule import rule

C_NAMES = {
    "float": "float32", "double": "float64", "half": "float16", "bfloat16": "bfloat16", "long int": "int64",
    "long": "int64", "int": "int32", "short": "int16", "byte": "uint8", "unsigned char": "uint8",
    "char": "int8", "signed char": "int8", "bool": "bool", "floattensor": "float32", "doubletensor": "float64",
    "halftensor": "float16", "longtensor": "int64", "inttensor": "int32", "booltensor": "bool",
    "bytetensor": "uint8", "chartensor": "int8", "shorttensor": "int16", "bfloat16tensor": "bfloat16",
    "c10::half": "float16", "c10::bfloat16": "bfloat16",
}  # fmt: skip
FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
CLASS_NUMBERS = frozenset(
    {"cross_entropy", "nll_loss", "CrossEntropyLoss", "NLLLoss", "NLLLoss2d", "nll_loss2d", "nll_loss_forward",
     "multi_margin_loss", "MultiMarginLoss"}
)  # fmt: skip
"""Losses with class numbers as targets."""
INTEGERS = frozenset({"int8", "uint8", "int16", "int32", "int64", "bool"})


def named(text: str) -> str:
    """A dtype as the user writes it, from what the framework calls it: "long int" is int64."""
    name = text.strip(" .'`").removeprefix("torch.").removeprefix("cuda.").removesuffix(" ")
    return C_NAMES.get(name.lower(), name.lower())


def _cast(dtype: str) -> str:
    return {"float32": ".float()", "float64": ".double()", "int64": ".long()", "float16": ".half()"}.get(
        dtype, f".to(torch.{dtype})"
    )


@rule("device-mix", says=r"(same|expected|different) devices?\b|is on cpu|on device .* expected device")
def device_mix(call: Call) -> Answer | None:
    """Tensors on different devices.

    All tensors of an operation have to lie on one device.
    A tensor that is made inside `forward` without `device=`, or a module that was never moved, are the usual causes.

    Fails:
    ```python
    x = torch.rand(4, 8, device="meta")
    x + torch.rand(8)  # here
    ```

    Mended:
    ```python
    x = torch.rand(4, 8, device="meta")
    x + torch.rand(8, device=x.device)
    ```
    """
    devices = sorted({o.device for o in call.failure.operands if o.kind == "tensor" and o.device})
    if len(devices) < 2:
        found = re.findall(r"\b(cpu|cuda(?::\d+)?|meta|mps(?::\d+)?|xpu(?::\d+)?)\b", call.text)
        devices = sorted(set(found))
    if len(devices) < 2:
        return None
    shown = " and ".join([", ".join(devices[:-1]), devices[-1]])
    return Answer(
        f"{call.words} on tensors of different devices: {shown}", shown, "move one of them with .to(x.device)"
    )


@rule(
    "loss-target-dtype",
    "cross_entropy nll_loss CrossEntropyLoss NLLLoss NLLLoss2d nll_loss2d nll_loss_forward "
    "binary_cross_entropy BCELoss binary_cross_entropy_with_logits BCEWithLogitsLoss one_hot mse_loss MSELoss "
    "l1_loss L1Loss multi_margin_loss MultiMarginLoss ctc_loss",
    says=r"expected target dtype",
)
def loss_target_dtype(call: Call) -> Answer | None:
    """A target of the wrong dtype.

    `cross_entropy` and `nll_loss` take class numbers as int64 (or probabilities of the input's own shape as floats);
    `binary_cross_entropy` and `mse_loss` take floats.

    Fails:
    ```python
    scores, target = torch.rand(4, 10), torch.rand(4)
    F.cross_entropy(scores, target)  # here
    ```

    Mended:
    ```python
    scores, target = torch.rand(4, 10), torch.rand(4)
    F.cross_entropy(scores, target.long())
    ```
    """
    said = call.said(r"expected target dtype .* but got (\w+)")
    scores, target = call.tensors[:2] if len(call.tensors) > 1 else (None, None)
    if target is None and said is None:
        return None
    got = target.dtype if target else named(said[1] if said else "?")
    wrong = call.said(
        r"target dtype|dtype int32/int64|found dtype|not implemented for|infer output dtype|scalar type"
    )
    numbers = call.names & CLASS_NUMBERS or target is None
    if numbers:
        if got in ("int64", "uint8") or (
            scores is not None and target is not None and scores.shape == target.shape
        ):
            return None
        if not wrong and got not in FLOATS | {"int32", "int16", "int8", "bool"}:
            return None
        if call.said("multi-target|batch_size"):
            return None
        return Answer(
            f"target of {call.words}: got {got}, expected int64 (class numbers)",
            f"{got}, int64 asked",
            "target.long()",
        )
    if not wrong or target is None or scores is None:
        return None
    expected = scores.dtype if scores.dtype in FLOATS else "float32"
    both = scores.dtype not in FLOATS
    return Answer(
        f"{'input' if both else 'target'} of {call.words}: got {scores.dtype if both else got}, expected {expected}",
        f"{scores.dtype if both else got}, {expected} asked",
        f"{'input' if both else 'target'}{_cast(expected)}",
    )


@rule("embedding-dtype", "embedding Embedding embedding_bag EmbeddingBag _embedding_bag")
def embedding_dtype(call: Call) -> Answer | None:
    """An embedding looked up with numbers that are no integers.

    The input of an embedding is a tensor of row numbers, int64 or int32.
    Data read as floats (from NumPy, from a CSV file) has to be converted.

    Fails:
    ```python
    words = torch.zeros(2, 5)
    nn.Embedding(100, 16)(words)  # here
    ```

    Mended:
    ```python
    words = torch.zeros(2, 5, dtype=torch.long)
    nn.Embedding(100, 16)(words)
    ```
    """
    said = call.said(r"scalar types: Long, Int; but got (?:torch\.)*([\w.]+)")
    if not said:
        return None
    got = named(said[1].removesuffix("instead"))
    return Answer(
        f"row numbers for {call.words}: got {got}, expected int64", f"{got}, int64 asked", ".long()"
    )


@rule(
    "index-dtype",
    "__getitem__ __setitem__ index_select gather scatter scatter_add scatter_reduce take index_add "
    "index_copy index_fill take_along_dim index_put index one_hot",
    says=r"tensors used as indices|expected dtype int32(/| or )int64 for index|only applicable to index tensor",
)
def index_dtype(call: Call) -> Answer | None:
    """An index that is a tensor of floats.

    Tensors used as indices are int64 (some operations take int32), or bool for a mask.

    Fails:
    ```python
    rows = torch.arange(0.0, 3.0)
    torch.rand(10, 4)[rows]  # here
    ```

    Mended:
    ```python
    rows = torch.arange(0, 3)
    torch.rand(10, 4)[rows]
    ```
    """
    if not call.said(r"used as indices|int32(/| or )int64|index tensor of type"):
        return None
    wrong = [o.dtype for o in call.arguments if o.kind == "tensor" and o.dtype in FLOATS]
    said = call.said(r"but got (?:torch\.)?(\w+)")
    got = named(said[1]) if said else (wrong[-1] if wrong else "floats")
    return Answer(f"index of {call.words}: got {got}, expected int64", f"{got}, int64 asked", ".long()")


@rule(
    "dtype-mix",
    says=r"same dtype|should be the same$|expected dtype .* but got|expected m1 and m2|"
    r"self\.dtype to be equal|can't be cast to the desired|promotion of|expected scalar type|"
    r"Expected query, key, and value to have the same dtype|input dtype .* does not match",
)
def dtype_mix(call: Call) -> Answer | None:
    """Tensors of different dtypes where they have to agree.

    Sums and products of elements convert; matrix products, convolutions and operations in place do not.
    float64 comes from NumPy, int64 from class numbers or pixels.

    Fails:
    ```python
    x = torch.rand(4, 8, dtype=torch.float64)
    nn.Linear(8, 2)(x)  # here
    ```

    Mended:
    ```python
    x = torch.rand(4, 8, dtype=torch.float64)
    nn.Linear(8, 2)(x.float())
    ```
    """
    if call.said("device"):
        return None
    seen = [o.dtype for o in call.failure.operands if o.kind == "tensor" and o.dtype]
    found = list(dict.fromkeys(seen))
    if len(found) < 2:
        said = call.said(r"(?:got:?|type \(|expected dtype|result type|expected scalar type) ?([\w.:]+(?: int)?)\)?"
                         r".*?(?:!=|and (?:bias type \(|weight type \()?|but (?:got|found) dtype|output type|but found)"
                         r" ?([\w.:]+(?: int)?)")  # fmt: skip
        found = [named(said[1]), named(said[2])] if said else found
    shown = " and ".join(found[:2]) if len(found) > 1 else " and ".join(found)
    if len(found) < 2:
        return Answer(f"{call.words} on tensors of different dtypes ({call.text[:120]})")
    return Answer(f"{call.words} on tensors of different dtypes: {shown}", shown, f"x{_cast(_wider(found))}")


def _wider(dtypes: list[str]) -> str:
    """What to convert to: float32 where that is one of them, for parameters have it."""
    floats = [dtype for dtype in dtypes if dtype in FLOATS]
    return "float32" if "float32" in floats or not floats else floats[0]


@rule(
    "dtype-unsupported",
    says=r"not implemented for '|could not infer output dtype|with two bool tensors|"
    r"only Tensors of floating point|can only be applied to floating|isn't implemented for|floating point or complex "
    r"tensor|only floating-point types",
)
def dtype_unsupported(call: Call) -> Answer | None:
    """An operation that does not exist for the dtype.

    The mean of integers, the difference of two masks, bitwise operations on floats.

    Fails:
    ```python
    pixels = torch.zeros(3, 8, 8, dtype=torch.uint8)
    pixels.mean()  # here
    ```

    Mended:
    ```python
    pixels = torch.zeros(3, 8, 8, dtype=torch.uint8)
    pixels.float().mean()
    ```
    """
    dtypes = list(dict.fromkeys(o.dtype for o in call.tensors if o.dtype))
    said = call.said(r"not implemented for '(\w+)'|Got: (?:torch\.)?(\w+)")
    got = named(said[1] or said[2]) if said else " and ".join(dtypes)
    if not got and call.said("bool tensors"):
        got = "bool"
    if not got:
        return None
    fix = ".float()" if got in INTEGERS - {"bool"} else ""
    return Answer(f"{call.words} does not exist for {got}", got, fix)


@rule(
    "scalar-needed",
    says=r"converted to Scalar|one element tensors|Boolean value of Tensor|len\(\) of a 0-d|iteration over a 0-d|"
    r"grad can be implicitly created only for scalar|Cannot call numel\(\) on tensor",
)
def scalar_needed(call: Call) -> Answer | None:
    """One number is needed, and the tensor has another number of elements.

    `item()`, `float()` and `if` take a tensor of one element, `backward()` a loss that is one number; `len` and a loop
    need at least one dimension.

    Fails:
    ```python
    loss = F.mse_loss(torch.rand(4, requires_grad=True), torch.rand(4), reduction="none")
    loss.backward()  # here
    ```

    Mended:
    ```python
    loss = F.mse_loss(torch.rand(4, requires_grad=True), torch.rand(4), reduction="none")
    loss.mean().backward()
    ```
    """
    if call.said("Cannot call numel") and not call.names & {"__bool__", "__int__", "__float__", "item"}:
        return None
    shown = call.shape()
    of = f" of shape {sizes.shape(shown)}" if shown is not None else ""
    caret = sizes.shape(shown) if shown is not None else ""
    if call.said("0-d"):
        return Answer(f"{call.words} needs a dimension, got a tensor without one{of if shown else ''}", caret)
    fix = "loss.mean().backward()" if call.name == "backward" else ""
    if call.name == "__bool__":
        fix = ".any() or .all()"
    return Answer(f"{call.words} needs a tensor of one element, got one{of or ' of several'}", caret, fix)
