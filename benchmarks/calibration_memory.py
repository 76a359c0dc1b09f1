"""Peak memory of calibration by the number of samples: int8 on MiniLM and SST-2, each run in a process of its own.

python benchmarks/calibration_memory.py
"""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from tables import store

SHARED = Path(os.environ.get("SPARSAM_SHARED", "../shared"))
SAMPLES = (16, 128, 1024)


def run(samples: int) -> None:
    """Compress, and print the peak of this process in MiB."""
    from sparsam.compress import compress
    from sparsam.quantization.int8 import Int8
    from sparsam.task import Task

    with tempfile.TemporaryDirectory() as folder:
        compress(
            str(SHARED / "models/minilm-sst2"), Task.load(str(SHARED / "data/sst2")), out=Path(folder) / "x",
            methods=[Int8(samples=samples)],
        )  # fmt: skip
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def main() -> None:
    """Every number of samples, and the table."""
    peaks = {}
    for samples in SAMPLES:
        call = [sys.executable, __file__, str(samples)]
        found = subprocess.run(call, capture_output=True, text=True, check=True)
        peaks[samples] = int(found.stdout.split()[-1])
    rows = [
        {"samples": samples, "peak RSS, MiB": peak, "of that at 16": round(peak / peaks[SAMPLES[0]], 3)}
        for samples, peak in peaks.items()
    ]
    store("calibration-memory", "Peak memory of calibration", "python benchmarks/calibration_memory.py", rows)


if __name__ == "__main__":
    run(int(sys.argv[1])) if len(sys.argv) > 1 else main()
