"""Messages from the process that runs the program to the one that asked for the check.

One message is one line: its number, an HMAC-SHA-256 over number and text under a key drawn for this run, and JSON. The
receiver takes a line only with the right number and code, so bytes that the program writes to the descriptor by chance
or on purpose end the conversation instead of entering it.

What this is worth: the key lives in the same process as the program. It is held by a C object that hands out no key, in
a closure that no module names, and the guards refuse the ways of searching memory that Python announces; a program that
overwrites its own interpreter's memory, or the checker's functions, can still lie. Whoever must judge code that is out to
deceive needs another process to judge it.
"""

import hashlib
import hmac
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

_DIGITS = 32


class Broken(Exception):
    """The bytes received are no message of the sender's."""


def sender(descriptor: int, key: bytes) -> Callable[[Mapping[str, Any]], None]:
    """A function that sends one message of plain JSON values; everything it needs is taken hold of now.

    The function raises OSError if the descriptor is gone, TypeError or ValueError for what is no JSON.
    """
    started = hmac.new(key, digestmod=hashlib.sha256)
    copy, write, encoder = started.copy, os.write, _encoder()
    number = 0
    del started, key

    def send(message: Mapping[str, Any]) -> None:
        nonlocal number
        text = f"{number} ".encode() + encoder(message).encode("ascii")
        code = copy()
        code.update(text)
        line = code.hexdigest()[:_DIGITS].encode() + b" " + text + b"\n"
        number += 1
        while line:
            line = line[write(descriptor, line) :]

    return send


def _encoder() -> Callable[[Any], str]:
    """JSON's encoder, in its compiled form where there is one: what a program does to the module json cannot reach it."""
    plain = json.JSONEncoder(separators=(",", ":"), allow_nan=True)
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    quote = json.encoder.encode_basestring_ascii
    if make is None:
        return plain.encode

    def refuse(value: object) -> Any:
        raise TypeError(f"{type(value).__name__} is no JSON value")

    compiled = make({}, refuse, quote, None, ":", ",", False, False, True)
    join = "".join
    return lambda value: join(compiled(value, 0))


class Receiver:
    """Puts bytes together to messages and checks them."""

    def __init__(self, key: bytes, *, most_bytes: int) -> None:
        self._key, self._most = key, most_bytes
        self._rest, self._number, self._received = b"", 0, 0

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that are complete now.

        Raises:
            Broken: If a line is none of the sender's, or there is too much altogether.
        """
        self._received += len(data)
        if self._received > self._most:
            raise Broken(f"more than {self._most:,} bytes of messages")
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [self._checked(line) for line in lines]

    def _checked(self, line: bytes) -> dict[str, Any]:
        code, _, text = line.partition(b" ")
        right = hmac.new(self._key, text, hashlib.sha256).hexdigest()[:_DIGITS].encode()
        number, _, value = text.partition(b" ")
        if not hmac.compare_digest(code, right) or number != str(self._number).encode():
            raise Broken("a message that the checker did not write")
        self._number += 1
        found = json.loads(value)
        if not isinstance(found, dict):
            raise Broken("a message that is no object")
        return found
