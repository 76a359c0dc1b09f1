"""Small changes of files that programs read: of their bytes, and of the JSON in them. The same ones for the same seed."""

import copy
import json
import random
from typing import Any

PIECES = (
    b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-1", b"0",
    b"4611686018427387904", b"9" * 5000, b"[" * 3000, b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b"\r\n",
    b'"__metadata__":', b'"sparsam":', b'"schema":1,', b"../", b" " * 100,
)  # fmt: skip


def _deep(depth: int) -> Any:
    made: Any = 1
    for _ in range(depth):
        made = [made]
    return made


VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 2**31, 2**62, 2**63, 2**64, 10**40, 0.5, -0.0, 1e308, float("nan"), float("inf"), "",
    "0", "1", "\0", "\ud800", "../x", "x" * 5000, "ltp", "bert", "vit", "os.system", [], {}, [0], [1, 0], [0, 0], [[0]],
    {"": 0}, {"a": {"b": {}}}, list(range(50)), _deep(300),
)  # fmt: skip
"""What may stand in place of any value."""


def of_bytes(data: bytes, drawn: random.Random) -> bytes:
    """One to three changes at any place."""
    made = bytearray(data)
    for _ in range(drawn.choice((1, 1, 1, 2, 3))):
        at = drawn.randrange(len(made) + 1)
        end = min(len(made), at + drawn.choice((1, 1, 2, 8, 64, 1000)))
        kind = drawn.randrange(7)
        if kind == 0 and at < len(made):
            made[at] ^= 1 << drawn.randrange(8)
        elif kind == 1 and at < len(made):
            made[at] = drawn.choice((0, 1, 0x20, 0x22, 0x30, 0x39, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del made[at:end]
        elif kind == 3:
            made[at:at] = drawn.choice(PIECES)
        elif kind == 4:
            made[at:end] = drawn.choice(PIECES)
        elif kind == 5:
            made[at:at] = made[at:end]
        else:
            del made[at:]
        if not made:
            break
    return bytes(made)


def of_json(whole: Any, drawn: random.Random) -> Any:
    """A copy with one to three values replaced, taken out, added or called by another name."""
    made = copy.deepcopy(whole)
    for _ in range(drawn.choice((1, 1, 1, 2, 3))):
        holders = [holder for holder in _holders(made) if holder]
        if not holders:
            return drawn.choice(VALUES)
        holder = drawn.choice(holders)
        key = drawn.choice(list(holder)) if isinstance(holder, dict) else drawn.randrange(len(holder))
        kind = drawn.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[drawn.choice(("x", "", "version", "schema", "__class__", key + " ", key.upper()))] = (
                holder.pop(key)
            )
        elif kind == 2 and isinstance(holder, dict):
            holder[drawn.choice(("x", "rule", "options", "__metadata__"))] = copy.deepcopy(
                drawn.choice(VALUES)
            )
        elif kind == 3 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        else:
            holder[key] = copy.deepcopy(drawn.choice(VALUES))
    return made


def _holders(value: Any) -> list[Any]:
    found, left = [], [value]
    while left:
        one = left.pop()
        if isinstance(one, dict | list):
            found.append(one)
            left += one.values() if isinstance(one, dict) else one[:50]
    return found


def of_text(text: bytes, drawn: random.Random) -> bytes:
    """A JSON text changed as bytes or as the value it holds."""
    if drawn.random() < 0.5:
        return of_bytes(text, drawn)
    return json.dumps(of_json(json.loads(text), drawn)).encode()


def of_weights(data: bytes, drawn: random.Random) -> bytes:
    """A safetensors file changed in its bytes, its header's text, or the values in its header."""
    kind = drawn.randrange(3)
    if kind == 0:
        return of_bytes(data, drawn)
    length = int.from_bytes(data[:8], "little")
    text, rest = data[8 : 8 + length], data[8 + length :]
    if kind == 1:
        text = of_bytes(text, drawn)
    else:
        header = json.loads(text)
        if drawn.random() < 0.5:
            record = json.loads(header["__metadata__"]["sparsam"])
            header["__metadata__"]["sparsam"] = json.dumps(of_json(record, drawn))
        else:
            header = of_json(header, drawn)
        text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest
