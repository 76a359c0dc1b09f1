"""torch.compile with frozen weights in bfloat16: inductor folds the weights in and lays them out for its own products.

One graph for all lengths (``dynamic=True``). It needs a C++ compiler, and half a minute or more to get ready.
"""

import os
import shutil
import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparsam.baselines.eager import Serve, tensors
from sparsam.baselines.feed import Feed, Part


def why_absent() -> str | None:
    """Whether there is a compiler."""
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(name.split()[0]) is None:
        return f"needs a C++ compiler ({name}), and none was found. Install g++, or name another one in CXX"
    return None


def open_compiled(feed: Feed) -> Serve:
    """The compiled model; compiling happens in the first pass."""
    from torch._inductor import config

    config.freezing = True
    config.compile_threads = 1  # no worker processes beside the race
    model: Any = feed.loaded.model.eval().to(torch.bfloat16).requires_grad_(False)
    model.set_attn_implementation("sdpa")
    compiled: Any = torch.compile(model, dynamic=True)

    @torch.no_grad()
    def serve(part: Part) -> NDArray[np.float32]:
        found: NDArray[np.float32] = compiled(**tensors(part.padded(), torch.bfloat16)).logits.float().numpy()
        return found

    return serve
