"""What ONNX Runtime, OpenVINO and NNCF would tell their makers is kept off, before they are imported.

- ONNX Runtime's official builds for Linux report their use to Microsoft and keep an identifier of the device below
  ``~/.cache/Microsoft``. ``ORT_DISABLE_TELEMETRY=1``, set before the library starts, keeps it from making either.
- OpenVINO (``openvino.tools.ovc``) and NNCF report through the package ``openvino_telemetry``; NNCF does so without asking
  where no answer is on file. Both take an import of it that fails for "no telemetry" and put a stub in its place, so it is
  entered in ``sys.modules`` as not there.
"""

import os
import sys
from typing import Any, cast

QUIET = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
"""Variables of the environment, read when a library is first imported."""


def without_telemetry() -> None:
    """Call before onnxruntime, openvino or nncf is imported. Leaves a telemetry package alone that is in use already."""
    os.environ.update(QUIET)
    if "openvino_telemetry" not in sys.modules:
        cast(dict[str, Any], sys.modules)["openvino_telemetry"] = None  # an import of it raises ImportError
