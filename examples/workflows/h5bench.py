"""The kernels of H5bench with h5py: write and read; write, overwrite and read; write, append and read.

    sparsam track --run append -- python h5bench.py append

Each phase is a program of its own, so that what one writes and the next reads are seen apart. Nothing here knows of tracking.
"""

import subprocess
import sys

import h5py
import numpy as np

DATASETS, ROWS, COLUMNS = 4, 256, 1024  # 1 MiB each
BLOCK = np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(np.float32)


def write(place: str) -> None:
    """Particles, all steps."""
    with h5py.File(place, "w") as file:
        for step in range(DATASETS):
            group = file.create_group(f"Timestep_{step}")
            group.create_dataset("x", data=BLOCK, maxshape=(None, COLUMNS), chunks=(64, COLUMNS))
            group.attrs["particles"] = ROWS


def overwrite(place: str) -> None:
    """The same places, other numbers."""
    with h5py.File(place, "r+") as file:
        for step in range(DATASETS):
            file[f"Timestep_{step}/x"][:] = BLOCK + 1


def append(place: str) -> None:
    """As much again behind it."""
    with h5py.File(place, "r+") as file:
        for step in range(DATASETS):
            data = file[f"Timestep_{step}/x"]
            data.resize(2 * ROWS, 0)
            data[ROWS:] = BLOCK


def read(place: str) -> None:
    """All of it; the sum goes into a file of its own."""
    with h5py.File(place) as file:
        total = sum(float(file[f"Timestep_{step}/x"][:].sum()) for step in range(DATASETS))
    with open(place.replace(".h5", "-sum.txt"), "w") as out:
        out.write(f"{total:.1f}\n")


PHASES = {"write": (write, read), "overwrite": (write, overwrite, read), "append": (write, append, read)}


def main() -> None:
    """The phases of a kernel, each a program."""
    kernel = sys.argv[1]
    if len(sys.argv) == 2:
        for phase in PHASES[kernel]:
            command = [sys.executable, __file__, kernel, phase.__name__, f"{kernel}.h5"]
            subprocess.run(command, check=True)
    else:
        globals()[sys.argv[2]](sys.argv[3])


if __name__ == "__main__":
    main()
