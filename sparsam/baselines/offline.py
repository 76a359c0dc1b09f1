"""No word to anybody: what a peer's libraries would send is kept off before they are imported.

- ONNX Runtime's official builds for Linux report their use to Microsoft and keep an identifier of the device below
  ``~/.cache/Microsoft``. ``ORT_DISABLE_TELEMETRY=1``, set before the library starts, keeps it from making either.
- OpenVINO (``openvino.tools.ovc``) and NNCF report through the package ``openvino_telemetry``; NNCF does so without asking
  where no answer is on file. Both take an import of it that fails for "no telemetry" and put a stub in its place, so it is
  entered in ``sys.modules`` as not there.

In a process of its own a contestant keeps off the model hub as well, and an audit hook ends it where Python code wants a
connection beyond this machine, or looks up a name. Below Python (ONNX Runtime) the hook sees nothing; there the variable is
what counts.
"""

import ipaddress
import os
import socket
import sys
from typing import Any, cast

QUIET = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
"""Variables of the environment, read when a library is first imported."""


def without_telemetry() -> None:
    """Call before onnxruntime, openvino or nncf is imported. Leaves a telemetry package alone that is in use already."""
    os.environ.update(QUIET)
    if "openvino_telemetry" not in sys.modules:
        cast(dict[str, Any], sys.modules)["openvino_telemetry"] = None  # an import of it raises ImportError


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
