"""No word to anybody: a contestant's libraries tell nobody of their use (:mod:`sparsam.telemetry`), and nobody is reached.

In a process of its own a contestant keeps off the model hub as well, and an audit hook ends it where Python code wants a
connection beyond this machine, or looks up a name. Below Python (ONNX Runtime) the hook sees nothing; there the variable is
what counts.
"""

import ipaddress
import os
import socket
import sys
from typing import Any

from sparsam.telemetry import without_telemetry


def keep_to_this_machine() -> None:
    """From now on this process can reach nobody beyond this machine; it cannot be undone."""
    without_telemetry()
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # a path is a Unix socket
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    if not _is_local(host):
        raise ConnectionRefusedError(f"a contestant talks to nobody beyond this machine; it wanted {host!r}")


def _is_local(host: object) -> bool:
    if host in (None, "", "localhost", b"localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(str(host).partition("%")[0]).is_loopback
    except ValueError:
        return False
