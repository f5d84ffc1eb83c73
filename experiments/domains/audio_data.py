"""Writes spoken words in many voices, by espeak-ng: python audio_data.py FOLDER [VOICES].

Every voice says every word twice, at other speeds and pitches, begins at another moment and is heard in noise.
Files are named VOICE__NUMBER.wav, so that a voice can be kept in one split.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy.io import wavfile

WORDS = ("yes", "no", "up", "down", "left", "right", "stop", "go")
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5")
VOICES, TAKES, SEED = 72, 2, 0


def spoken(word: str, voice: str, speed: int, pitch: int) -> tuple[int, np.ndarray]:
    """Rate in Hz, and samples of a word with a largest value of 1, without the silence around it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "word.wav"
        subprocess.run(
            ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", str(path), word], check=True
        )
        rate, samples = wavfile.read(path)
    heard = np.flatnonzero(np.abs(samples) > 100)
    kept = samples[heard[0] : heard[-1] + 1].astype(float)
    return rate, kept / np.abs(kept).max()


def take(word: str, voice: str, chance: np.random.Generator) -> tuple[int, np.ndarray]:
    """Rate, and a second (16-bit) in which a word begins at a random moment, in noise 10 to 30 dB below it."""
    rate, word_alone = spoken(word, voice, int(chance.integers(120, 200)), int(chance.integers(20, 80)))
    word_alone = word_alone[:rate]
    second = np.zeros(rate)
    start = int(chance.integers(0, rate - len(word_alone) + 1))
    second[start : start + len(word_alone)] = word_alone
    loudness = np.sqrt(np.mean(word_alone**2))
    second += chance.normal(0, loudness * 10 ** (-chance.uniform(10, 30) / 20), rate)
    second *= chance.uniform(0.2, 0.7) / np.abs(second).max()
    return rate, np.round(second * 32767).astype(np.int16)


def write(folder: Path, voices: int = VOICES) -> None:
    """Write a folder for each word, the same for the same number of voices and version of espeak-ng."""
    chance = np.random.default_rng(SEED)
    names = [f"{accent}+{variant}" for variant in VARIANTS for accent in ACCENTS]
    for voice in sorted(chance.permutation(names)[:voices].tolist()):
        for word in WORDS:
            (folder / word).mkdir(parents=True, exist_ok=True)
            for number in range(TAKES):
                rate, samples = take(word, voice, chance)
                wavfile.write(folder / word / f"{voice}__{number}.wav", rate, samples)


if __name__ == "__main__":
    write(Path(sys.argv[1]), *map(int, sys.argv[2:]))
