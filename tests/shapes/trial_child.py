"""A child of the sandbox for tests: runs the program's main file under the guards and finishes with how it ended."""

import importlib.machinery
import importlib.util
import sys
import traceback

from sparsam.shapes import sandbox

channel = sandbox.connect()
if channel.request.get("torch") == "before":
    import torch
refusals = sandbox.enter(channel)
if channel.request.get("torch") == "after":
    import torch  # noqa: F401
channel.send({"started": channel.program.target})
loader = importlib.machinery.SourceFileLoader("program", str(channel.program.file))
module = importlib.util.module_from_spec(importlib.util.spec_from_loader("program", loader))
sys.modules["program"] = module
try:
    loader.exec_module(module)
except BaseException:
    channel.finish({"verdict": "error", "text": traceback.format_exc()})
channel.finish({"verdict": "proved", "refused": len(refusals())})
