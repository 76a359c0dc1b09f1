"""Small and large damage of Python sources, the same for the same seed."""

import random

PIECES = (
    b"(" * 150, b"[" * 300, b"{1:" * 80, b"-" * 3000, b"not " * 2000, b"lambda:" * 500, b"2**" * 3000, b"a.b" * 2000,
    b"x" * 20000, b"1+" * 4000, b'"""', b"'", b'f"{f\'{', b"\\\n", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80",
    b"# -*- coding: latin-1 -*-\n", b"# coding: utf-7\n", b"# coding: rot13\n", b"# coding: unicode_escape\n",
    b"# coding: x\n", "π = 𝔘 × ſ\n".encode(), b"\xe2\x80\xae", b"\x0c", b"\x1a", b"\r", b"\t \t", b"elif a:\n pass\n" * 800,
    b"9" * 5000, b"0x", b"1e999999", b"\\N{", b"\\x", b"async def", b"match x:\n case ", b"import torch\n",
    b"from . import x\n",    b"with (" * 40, b"yield ", b":=", b"*", b"@", b"->", b"global x;", b"    ",
    b"type X = int\n", b"except* E:\n", b"!ls\n",
)  # fmt: skip


def mutate(data: bytes, other: bytes, drawn: random.Random) -> bytes:
    """One to four changes: flips, deletions, doublings, pieces of another file, hostile pieces, long lines."""
    made = bytearray(data)
    for _ in range(drawn.choice((1, 1, 2, 3, 4))):
        at = drawn.randrange(len(made) + 1)
        end = min(len(made), at + drawn.choice((1, 1, 4, 40, 400, 4000)))
        kind = drawn.randrange(8)
        if kind == 0 and at < len(made):
            made[at] ^= 1 << drawn.randrange(8)
        elif kind == 1 and at < len(made):
            made[at] = drawn.randrange(256)
        elif kind == 2:
            del made[at:end]
        elif kind == 3:
            made[at:at] = made[at:end] * drawn.choice((1, 2, 50))
        elif kind == 4:
            start = drawn.randrange(len(other) + 1)
            made[at:end] = other[start : start + drawn.choice((10, 100, 2000))]
        elif kind == 5:
            made[at:at] = drawn.choice(PIECES)
        elif kind == 6:
            made[at:end] = drawn.choice(PIECES)
        else:
            made[at:end] = made[at:end].replace(b"\n", b"; ")
    return bytes(made)
