"""Acoustic sensing, after DASSA: raw recordings are converted to HDF5, and each is analysed in four ways.

    sparsam track -- python acoustic_sensing.py

Every step is a program of its own, as in a real pipeline. Nothing here knows of the tracking.
"""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np

RECORDINGS, CHANNELS, SAMPLES, RATE = 3, 32, 2048, 500.0


def record(number: int) -> None:
    """A raw recording: noise, and a tone that is another one in each recording."""
    drawn = np.random.default_rng(number)
    tone = np.sin(2 * np.pi * 20 * (number + 1) * np.arange(SAMPLES) / RATE)
    data = drawn.normal(size=(CHANNELS, SAMPLES)) + 3 * tone
    data.astype(np.float32).tofile(f"raw/recording{number}.bin")


def convert(source: str, target: str) -> None:
    """Raw numbers to a file of HDF5 that says what they are."""
    data = np.fromfile(source, np.float32).reshape(CHANNELS, SAMPLES)
    with h5py.File(target, "w") as file:
        made = file.create_dataset("acquisition/das", data=data)
        made.attrs["sampling rate"] = RATE


def spectrum(das: np.ndarray, rate: float) -> np.ndarray:
    """Mean amplitude of each frequency."""
    return np.abs(np.fft.rfft(das, axis=1)).mean(0)


def energy(das: np.ndarray, rate: float) -> np.ndarray:
    """Of each channel, in windows of half a second."""
    window = int(rate / 2)
    whole = das[:, : das.shape[1] // window * window]
    return np.square(whole).reshape(len(das), -1, window).mean(2)


def similarity(das: np.ndarray, rate: float) -> np.ndarray:
    """Correlation of neighbouring channels."""
    return np.array([np.corrcoef(das[at], das[at + 1])[0, 1] for at in range(len(das) - 1)])


def events(das: np.ndarray, rate: float) -> np.ndarray:
    """Where short-time energy is twice the long-time energy."""
    power = np.square(das).mean(0)
    short, long = (np.convolve(power, np.ones(n) / n, "same") for n in (25, 500))
    return np.flatnonzero(short > 2 * long)


ANALYSES = {x.__name__: x for x in (spectrum, energy, similarity, events)}


def analyse(source: str, name: str, target: str) -> None:
    """One analysis of one recording."""
    with h5py.File(source) as file:
        das = file["acquisition/das"]
        result = ANALYSES[name](das[:], float(das.attrs["sampling rate"]))
    with h5py.File(target, "w") as file:
        file["result"] = result
        file["result"].attrs["analysis"] = name


def main() -> None:
    """All steps, each in a process of its own."""
    for name in ("raw", "converted", "products"):
        Path(name).mkdir(exist_ok=True)
    for number in range(RECORDINGS):
        step("record", str(number))
        step("convert", f"raw/recording{number}.bin", f"converted/recording{number}.h5")
        for name in ANALYSES:
            step("analyse", f"converted/recording{number}.h5", name, f"products/recording{number}-{name}.h5")


def step(*words: str) -> None:
    """A program."""
    subprocess.run([sys.executable, __file__, *words], check=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            main()
        case ["record", number]:
            record(int(number))
        case ["convert", source, target]:
            convert(source, target)
        case ["analyse", source, name, target]:
            analyse(source, name, target)
