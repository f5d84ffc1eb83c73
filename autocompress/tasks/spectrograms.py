"""From samples of sound to what networks see of them: how loud each band of frequencies is over time."""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import TaskError

WINDOW, HOP = 0.025, 0.010  # seconds
FLOOR = -80.0  # dB, where a sine of full scale has -6: what is less is silence
Floats = NDArray[np.float32]
Bank = NDArray[np.float64]


@dataclass(frozen=True)
class Bands:
    """How spectrograms are made: rate in Hz, and how many bands, evenly spaced by pitch from 0 to half of it."""

    rate: int
    count: int

    @property
    def window(self) -> int:
        """Samples in a window."""
        return round(WINDOW * self.rate)

    @property
    def hop(self) -> int:
        """Samples from one window to the next."""
        return round(HOP * self.rate)

    @property
    def points(self) -> int:
        """Samples of a Fourier transform: the power of two from the window's length on."""
        return 1 << (self.window - 1).bit_length()

    def frames(self, length: int) -> int:
        """How many whole windows so many samples hold."""
        return 1 + (length - self.window) // self.hop

    def shown(self) -> str:
        """How to make them, in words for whoever runs the file."""
        return (
            f"periodic Hann windows of {self.window} samples every {self.hop}; |FFT of {self.points} points / sum of "
            f"the window|^2; {self.count} triangular bands with peaks of 1 and corners evenly spaced by "
            f"2595 log10(1 + Hz / 700) from 0 to {self.rate / 2:g} Hz; 10 log10 of each sum, at least {FLOOR:g}"
        )


def spectrogram(samples: Floats, bands: Bands) -> Floats:
    """Log-mel spectrogram (bands, frames) in dB of samples (length,)."""
    from scipy.fft import rfft
    from scipy.signal.windows import hann

    window = hann(bands.window, sym=False)
    frames = np.lib.stride_tricks.sliding_window_view(samples, bands.window)[:: bands.hop]
    power = np.abs(rfft(frames * (window / window.sum()), bands.points)) ** 2
    loud = filterbank(bands) @ power.T
    found: Floats = (10 * np.log10(np.maximum(loud, 10 ** (FLOOR / 10)))).astype(np.float32)
    return found


@functools.lru_cache(maxsize=2)
def filterbank(bands: Bands) -> Bank:
    """The weight (bands, points / 2 + 1) of each frequency in each band. Raises TaskError where a band gets none."""
    top = _pitch(bands.rate / 2)
    corners = 700 * (10 ** (np.linspace(0, top, bands.count + 2) / 2595) - 1)
    frequencies = np.arange(bands.points // 2 + 1) * bands.rate / bands.points
    low, peak, high = (corners[start : start + bands.count, None] for start in range(3))
    bank: Bank = np.maximum(np.minimum((frequencies - low) / (peak - low), (high - frequencies) / (high - peak)), 0)
    empty = np.flatnonzero(~bank.any(axis=1))
    if empty.size:
        raise TaskError(
            f"task.mels: of {bands.count} bands at {bands.rate} Hz, band {empty[0]} ({low[empty[0], 0]:.0f} to "
            f"{high[empty[0], 0]:.0f} Hz) lies between two frequencies of the transform: take fewer"
        )
    return bank


def _pitch(hertz: float) -> float:
    """The mel scale of O'Shaughnessy (1987)."""
    return float(2595 * np.log10(1 + hertz / 700))
