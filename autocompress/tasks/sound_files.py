"""One sound, from its WAV file to samples between -1 and 1 at one rate and of one length."""

import math
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import TaskError
from .bounds import check_file
from .remarks import Remarks

MOST_SOUND_BYTES = 10**9
RATES = range(1000, 1_000_001)  # Hz
MARGIN = 0.1  # seconds read past the end that is kept, which a filter of resampling reaches into
LOUDEST = 16.0  # of floats, whose full scale is 1: more is another scale
BYTES_PER_HEADER = 12
Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Clip:
    """What sounds are brought to: a rate in Hz, a number of samples, and whether other rates are resampled."""

    rate: int
    length: int
    resample: bool = False


@dataclass(frozen=True)
class Header:
    """What a WAV file says of itself: its rate in Hz, its channels, and how many samples each has."""

    rate: int
    channels: int
    length: int


def read_sound(path: Path, clip: Clip, remarks: Remarks) -> Samples:
    """Samples (length,) of a WAV file: the mean of its channels, cut or filled with zeros at its end.

    Raises TaskError, with the fix, for what is no whole WAV file, has another rate, or holds no intensities.
    """
    header = read_header(path)
    if header.rate != clip.rate and not clip.resample:
        raise TaskError(
            f"task.sample_rate: {path}: has {header.rate} Hz, not {clip.rate}: set that, or `resample: true`"
        )
    needed = math.ceil((clip.length / clip.rate + MARGIN) * header.rate)
    values = scaled(_samples(path)[:needed], path, remarks)
    if values.ndim == 2:
        remarks.add("of several channels the mean is taken", path)
        values = values.mean(axis=1)
    if header.rate != clip.rate:
        from scipy.signal import resample_poly

        remarks.add(f"resampled from {header.rate} to {clip.rate} Hz", path)
        common = math.gcd(header.rate, clip.rate)
        values = resample_poly(values, clip.rate // common, header.rate // common)
    seconds = f"{clip.length / clip.rate:g} s of task.seconds"
    if len(values) > clip.length:
        remarks.add(f"longer than the {seconds}, cut at its end", path)
    elif len(values) < clip.length:
        remarks.add(f"shorter than the {seconds}, filled with zeros at its end", path)
    return fitted(values, clip)


def fitted(values: NDArray[np.float64], clip: Clip) -> Samples:
    """Samples (length,), cut or filled with zeros at their end."""
    found = np.zeros(clip.length, np.float32)
    found[: min(len(values), clip.length)] = values[: clip.length]
    return found


def read_header(path: Path) -> Header:
    """Rate, channels and length of a WAV file, all of whose chunks are there. Raises TaskError for another file."""
    check_file(path, "task.data", MOST_SOUND_BYTES)
    try:
        with path.open("rb") as file:
            start = file.read(BYTES_PER_HEADER)
            if start[:4] != b"RIFF" or start[8:] != b"WAVE":
                raise TaskError(f"task.data: {path}: is no WAV file by its first bytes: save it as one")
            size, place = path.stat().st_size, BYTES_PER_HEADER
            chunks: dict[bytes, tuple[int, bytes]] = {}
            while place + 8 <= size and not {b"fmt ", b"data"} <= chunks.keys():
                file.seek(place)
                name, count = struct.unpack("<4sI", file.read(8))
                chunks[name] = (count, file.read(16) if name == b"fmt " else b"")
                place += 8 + count + count % 2
                if place - count % 2 > size:
                    raise TaskError(
                        f"task.data: {path}: ends {place - count % 2 - size:,} bytes before its header says: it "
                        "was cut, or written to a pipe; save it again"
                    )
    except OSError as error:
        raise TaskError(f"task.data: {path}: cannot be read ({error.strerror}): check its permissions") from None
    if not {b"fmt ", b"data"} <= chunks.keys() or chunks[b"fmt "][0] < 16:
        raise TaskError(f"task.data: {path}: is a WAV file without format or samples: save it again")
    _, channels, rate, _, block, _ = struct.unpack("<HHIIHH", chunks[b"fmt "][1])
    if rate not in RATES or not channels or block < channels or chunks[b"data"][0] < block:
        raise TaskError(
            f"task.data: {path}: has {chunks[b'data'][0]:,} bytes of samples in {channels} channels at {rate:,} Hz: "
            "remove or replace it"
        )
    return Header(rate, channels, chunks[b"data"][0] // block)


def _samples(path: Path) -> NDArray[np.generic]:
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks of other programs, which are skipped
            found: NDArray[np.generic] = wavfile.read(path)[1]
    except Exception as error:  # parsers of damaged files raise whatever they meet
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise TaskError(
            f"task.data: {path}: cannot be read as PCM or floats ({reason}): save it as a WAV file of 16 bits"
        ) from None
    return found


def scaled(values: NDArray[np.generic], path: Path, remarks: Remarks) -> NDArray[np.float64]:
    """Samples of any depth as shares of full scale; those of 24 bits come as the upper ones of 32."""
    if values.dtype == np.uint8:
        return (values.astype(np.float64) - 128) / 128
    if values.dtype.kind == "i":
        return values.astype(np.float64) / 2.0 ** (8 * values.dtype.itemsize - 1)
    found = values.astype(np.float64)
    high = float(np.abs(found).max()) if found.size else 0.0
    if not high <= LOUDEST:
        raise TaskError(
            f"task.data: {path}: holds floats up to {high:.4g}, but their full scale is 1: divide them by the largest "
            "value they can have, or save 16 bits"
        )
    if high > 1:
        remarks.add("floats past the full scale of 1 are taken as they are", path)
    return found
