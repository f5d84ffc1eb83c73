"""Sounds: WAV files of any depth, what is refused and said, spectrograms against plain loops, groups, a search."""

import math
import struct
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.io import wavfile
from tiny import run

import autocompress.tasks.bounds as bounds
from autocompress.data import SPLITS, batches
from autocompress.errors import TaskError
from autocompress.tasks import Classification, load_task, refer
from autocompress.tasks.audio_classification import AudioClassificationConfig
from autocompress.tasks.remarks import Remarks
from autocompress.tasks.sound_files import Clip, Header, read_header, read_sound
from autocompress.tasks.spectrograms import FLOOR, Bands, filterbank, spectrogram

RATE = 8000
CLIP = Clip(RATE, 1600)


def sine(hertz: float, seconds: float = 0.2, rate: int = RATE, loud: float = 0.5) -> np.ndarray[Any, Any]:
    return loud * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def save(path: Path, samples: np.ndarray[Any, Any], rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, rate, np.round(samples * 32767).astype(np.int16))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten low and ten high tones of five speakers, a fifth of a second each."""
    chance = np.random.default_rng(0)
    for number in range(10):
        for label, low in (("low", 300), ("high", 1500)):
            save(tmp_path / "data" / label / f"s{number // 2}_{number}.wav", sine(low * chance.uniform(0.9, 1.1)))
    return tmp_path / "data"


def config(folder: Path, **settings: Any) -> AudioClassificationConfig:
    given = {"kind": "audio_classification", "data": f"folder:{folder.name}", "sample_rate": RATE, "seconds": 0.2}
    return AudioClassificationConfig.model_validate({**given, **settings})


def task(folder: Path, **settings: Any) -> Classification:
    found = load_task(refer(config(folder, **settings), folder.parent))
    assert isinstance(found, Classification)
    return found


def read(path: Path, clip: Clip = CLIP) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
    remarks = Remarks()
    return read_sound(path, clip, remarks), remarks.lines()


# Samples


def pcm(path: Path, samples: np.ndarray[Any, Any], width: int) -> None:
    """By Python's own module, which knows nothing of numpy: whole numbers of so many bytes."""
    top = 2 ** (8 * width - 1)
    whole = [min(top - 1, round(float(value) * top)) for value in samples]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(width)
        file.setframerate(RATE)
        rows = ((value + 128).to_bytes(1, "little") if width == 1 else value.to_bytes(width, "little", signed=True)
                for value in whole)  # fmt: skip
        file.writeframes(b"".join(rows))


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_samples_of_any_depth_are_shares_of_full_scale(width: int, tmp_path: Path) -> None:
    given = sine(440)
    pcm(tmp_path / "a.wav", given, width)
    found, said = read(tmp_path / "a.wav")
    assert said == ()
    assert np.abs(found - given).max() <= max(0.5 / 2 ** (8 * width - 1), 6e-8) * 1.001


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_floats_are_taken_as_they_are_and_said_where_they_pass_full_scale(kind: type, tmp_path: Path) -> None:
    wavfile.write(tmp_path / "a.wav", RATE, sine(440, loud=1.5).astype(kind))
    found, said = read(tmp_path / "a.wav")
    assert np.allclose(found, sine(440, loud=1.5), atol=1e-6)
    assert said == (f"floats past the full scale of 1 are taken as they are: {tmp_path / 'a.wav'}",)


def test_channels_are_averaged_and_it_is_said(tmp_path: Path) -> None:
    left, right = sine(440), sine(660)
    wavfile.write(tmp_path / "a.wav", RATE, np.stack([left, right], 1).astype(np.float32))
    found, said = read(tmp_path / "a.wav")
    assert np.allclose(found, (left + right) / 2, atol=1e-6)
    assert said == (f"of several channels the mean is taken: {tmp_path / 'a.wav'}",)


@pytest.mark.parametrize(("seconds", "words"), [(0.15, "shorter than the 0.2 s"), (0.25, "longer than the 0.2 s")])
def test_sounds_are_cut_or_filled_at_their_end_and_it_is_said(seconds: float, words: str, tmp_path: Path) -> None:
    save(tmp_path / "a.wav", sine(440, seconds))
    found, said = read(tmp_path / "a.wav")
    expected = np.concatenate([sine(440, seconds), np.zeros(1600)])[:1600]
    assert np.abs(found - expected).max() < 5e-5
    assert len(said) == 1
    assert words in said[0]


@pytest.mark.parametrize("rate", [11_025, 16_000, 44_100])
def test_another_rate_is_refused_or_resampled(rate: int, tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", sine(440, 0.5, rate), rate)
    with pytest.raises(TaskError, match=f"task.sample_rate: {path}: has {rate} Hz, not 8000: set that, or `resample"):
        read(path)
    found, said = read(path, Clip(RATE, 1600, resample=True))
    # A filter's edges are at the beginning alone: what follows the cut is read too.
    assert np.abs(found - sine(440))[50:].max() < 0.005
    assert said[0] == f"resampled from {rate} to 8000 Hz: {path}"


def test_what_is_past_half_of_the_new_rate_does_not_come_back_as_another_tone(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", sine(6000, 0.5, 16_000), 16_000)
    found, _ = read(path, Clip(RATE, 1600, resample=True))
    assert np.abs(found[50:]).max() < 0.01


# What is refused


def chunks(*parts: tuple[bytes, bytes]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in parts)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def form(tag: int = 1, channels: int = 1, rate: int = RATE, bits: int = 16) -> tuple[bytes, bytes]:
    block = channels * bits // 8
    return b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * block, block, bits)


WHOLE = chunks(form(), (b"data", bytes(3200)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no WAV file by its first bytes"),
        (b"ID3 and so on, as MP3 files begin", "is no WAV file by its first bytes"),
        (WHOLE[:-100], "ends 100 bytes before its header says: it was cut"),
        (WHOLE[:40] + b"\xff\xff\xff\xff" + WHOLE[44:], ".* bytes before its header says: it was cut"),
        (WHOLE[:20], "ends 16 bytes before its header says"),
        (chunks(form()), "is a WAV file without format or samples"),
        (chunks((b"data", bytes(3200))), "is a WAV file without format or samples"),
        (chunks(form(), (b"data", b"")), "has 0 bytes of samples in 1 channels at 8,000 Hz"),
        (chunks(form(channels=0), (b"data", bytes(3200))), "has 3,200 bytes of samples in 0 channels"),
        (chunks(form(rate=3), (b"data", bytes(3200))), "has 3,200 bytes of samples in 1 channels at 3 Hz"),
        (chunks(form(tag=7, bits=8), (b"data", bytes(3200))), r"cannot be read as PCM or floats \(.*MULAW"),
        (chunks(form(tag=3, bits=32), (b"data", np.full(800, 2e4, "<f4").tobytes())), "holds floats up to 2e\\+04"),
        (chunks(form(tag=3, bits=32), (b"data", np.full(800, np.nan, "<f4").tobytes())), "holds floats up to nan"),
    ],
)  # fmt: skip
def test_what_is_no_whole_wav_file_is_refused_by_its_name(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(TaskError, match=f"task.data: {path}: {words}"):
        read(path)


@given(st.integers(0, len(WHOLE) - 1))
def test_a_wav_file_that_was_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.wav"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(TaskError, match=r"cut\.wav"):
        read_header(path)


def test_chunks_of_other_programs_are_skipped(tmp_path: Path) -> None:
    samples = np.arange(1600, dtype="<i2").tobytes()
    (tmp_path / "a.wav").write_bytes(
        chunks((b"odd ", b"123"), form(), (b"note", b"x"), (b"data", samples), (b"id3 ", b"y"))
    )
    assert read_header(tmp_path / "a.wav") == Header(RATE, 1, 1600)
    found, said = read(tmp_path / "a.wav")
    assert np.array_equal(found, np.arange(1600, dtype=np.float32) / 32768)
    assert said == ()


# Spectrograms


def slowly(samples: np.ndarray[Any, Any], bands: Bands) -> np.ndarray[Any, Any]:
    """A log-mel spectrogram by plain sums, after its description alone."""
    window, points = round(0.025 * bands.rate), 1
    while points < window:
        points *= 2
    weights = [0.5 - 0.5 * math.cos(2 * math.pi * n / window) for n in range(window)]
    top = 2595 * math.log10(1 + bands.rate / 2 / 700)
    corners = [700 * (10 ** (top * index / (bands.count + 1) / 2595) - 1) for index in range(bands.count + 2)]
    frames = range(0, len(samples) - window + 1, round(0.010 * bands.rate))
    found = np.zeros((bands.count, len(frames)))
    for column, start in enumerate(frames):
        power = []
        for k in range(points // 2 + 1):
            turned = [weights[n] * samples[start + n] * np.exp(-2j * math.pi * k * n / points) for n in range(window)]
            power.append(abs(sum(turned) / sum(weights)) ** 2)
        for band in range(bands.count):
            low, peak, high = corners[band : band + 3]
            total = 0.0
            for k, value in enumerate(power):
                hertz = k * bands.rate / points
                if low < hertz <= peak:
                    total += value * (hertz - low) / (peak - low)
                elif peak < hertz < high:
                    total += value * (high - hertz) / (high - peak)
            found[band, column] = 10 * math.log10(max(total, 1e-8))
    return found


@pytest.mark.parametrize(("rate", "count"), [(8000, 20), (4000, 12)])
def test_spectrograms_are_those_of_plain_sums(rate: int, count: int) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, round(0.05 * rate)).astype(np.float32)
    samples[: rate // 50] = 0
    bands = Bands(rate, count)
    expected = slowly(samples, bands)
    assert expected.shape == (count, bands.frames(len(samples)))
    assert np.abs(spectrogram(samples, bands) - expected).max() < 1e-3


@given(st.integers(300, 3500))
def test_a_tone_is_loudest_in_the_band_whose_peak_is_next_to_it_at_its_own_power(hertz: int) -> None:
    bands = Bands(RATE, 32)
    found = spectrogram(sine(hertz, loud=1.0).astype(np.float32), bands).mean(axis=1)
    mel = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), 34)[1:-1]
    distance = np.abs(mel - 2595 * np.log10(1 + hertz / 700))
    assert distance[found.argmax()] <= np.sort(distance)[1]
    # All bands together hold the tone's power, half of one, spread over a Hann window's 1.5 frequencies and finer ones.
    total = 10 * np.log10(np.sum(10 ** (found / 10)))
    assert total == pytest.approx(10 * np.log10(0.25 * 1.5 * 256 / 200), abs=0.5)


def test_bands_sum_to_one_between_the_first_peak_and_the_last() -> None:
    bands = Bands(16_000, 40)
    bank = filterbank(bands)
    peaks = bank.argmax(axis=1)
    assert (np.diff(peaks) > 0).all()
    assert np.allclose(bank.sum(axis=0)[peaks[0] + 1 : peaks[-1]], 1)
    with pytest.raises(TaskError, match=r"task.mels: of 200 bands at 16000 Hz, band 0 \(0 to 18 Hz\) lies between two"):
        filterbank(Bands(16_000, 200))


def test_a_sound_ten_times_as_loud_is_20_db_louder_and_silence_is_the_floor() -> None:
    bands, samples = Bands(RATE, 20), np.random.default_rng(0).normal(0, 0.02, 1600).astype(np.float32)
    assert np.allclose(spectrogram(10 * samples, bands) - spectrogram(samples, bands), 20, atol=1e-3)
    assert (spectrogram(np.zeros(1600, np.float32), bands) == FLOOR).all()


# The task


def whole(found: Classification, name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    batch = next(batches(found.split(name), 10_000))
    return batch.inputs[0].numpy(), batch.targets.numpy()


def test_the_model_sees_spectrograms_that_are_scaled_by_the_training_split_alone(data: Path) -> None:
    found = task(data)
    assert found.classes == ("high", "low")
    bands = Bands(RATE, 40)
    known = {}
    for label in found.classes:
        for file in (data / label).iterdir():
            known[spectrogram(read(file)[0], bands).tobytes()] = found.classes.index(label)
    seen = []
    for name in SPLITS:
        x, y = whole(found, name)
        assert x.shape[1:] == (1, 40, 18)
        assert [known[row[0].tobytes()] for row in x] == list(y)
        seen += [row.tobytes() for row in x]
    assert len(set(seen)) == 20
    x, _ = whole(found, "train")
    state = found.model().state_dict()
    assert np.allclose(state["mean"][0, :, 0], x[:, 0].mean(axis=(0, 2)), atol=1e-3)
    spread = x[:, 0].std(axis=(0, 2))
    assert np.allclose(1 / state["factor"][0, :, 0], np.where(spread > 0, spread, 1), rtol=1e-3)
    assert found.notes == (f"task.data: sounds are seen as spectrograms (N, 1, 40, 18): {bands.shown()}",)
    assert found.inputs == (
        "the mean of channels at 8000 Hz, full scale 1, cut to 1600 samples or filled with zeros at the end, as "
        f"spectrograms (N, 1, 40, 18): {bands.shown()}",
    )


def test_no_group_is_in_two_splits_of_one_set(data: Path) -> None:
    found = task(data, group=r"^s(\d)_")
    known = {}
    for file in data.rglob("*.wav"):
        known[spectrogram(read(file)[0], Bands(RATE, 40)).tobytes()] = file.name[1]
    groups = [{known[row[0].tobytes()] for row in whole(found, name)[0]} for name in SPLITS]
    assert all(groups)
    assert sum(map(len, groups)) == len(set.union(*groups)) == 5


def by_split(data: Path, group: Callable[[int, int], str]) -> None:
    for place, name in enumerate(("train", "val", "test")):
        for label in ("low", "high"):
            for number in range(2):
                save(
                    data.parent / "split" / name / label / f"{group(place, number)}_{number}.wav", sine(400 + 9 * place)
                )


def test_a_group_in_two_splits_of_folders_is_refused(data: Path) -> None:
    by_split(data, lambda place, number: f"s{place}{number}")
    assert [len(whole(task(data.parent / "split", group="^(.+)_"), name)[0]) for name in SPLITS] == [4, 4, 4]
    by_split(data, lambda place, _: f"s{place % 2}")
    found = r"split/test/\w+/s\d+_0.wav: its group 's0' is in train too, as .*split/train/\w+/s0\d?_\d.wav: move all"
    with pytest.raises(TaskError, match=f"task.group: .*{found}"):
        task(data.parent / "split", group="^(s.)")


def test_what_is_silent_and_what_is_no_sound_is_said(data: Path) -> None:
    save(data / "low" / "zero.wav", np.zeros(1600))
    save(data / "high" / "late.wav", np.concatenate([np.zeros(1600), sine(440)]))
    (data / "low" / "notes.txt").write_text("x")
    said = task(data).notes
    assert f"task.data: left out, as its name is not that of a WAV file: {data / 'low' / 'notes.txt'}" in said
    assert any("silent: never above -80 dB in what is kept of it" in note and "and 1 more" in note for note in said)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"group": r"^x(\d)"}, r"task.group: .*/high/s0_0.wav: '\^x\(\\\\d\)' finds no group in its name"),
        ({"group": r"^(s)"}, "task.split: no example is in the split 'validation'"),
        ({"sample_rate": 16_000}, r"task.sample_rate: .*s._..wav: has 8000 Hz, not 16000"),
        ({"mels": 200}, "task.mels: of 200 bands at 8000 Hz"),
        ({"split": {"validation": 0.05, "test": 0.9}}, "has no example of class|no example is in the split"),
        ({"data": "folder:nothing"}, "nothing: no such folder"),
    ],
)
def test_what_is_wrong_with_sounds_is_said_before_training(settings: dict[str, Any], words: str, data: Path) -> None:
    with pytest.raises(TaskError, match=words):
        task(data, **settings)


def test_more_sounds_than_memory_holds_are_refused_before_they_are_read(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MOST_BYTES", 20 * 4 * 40 * 18 - 1)
    for file in data.rglob("*.wav"):
        file.write_bytes(b"nothing that could be read")
    with pytest.raises(TaskError, match=r"20 spectrograms take 57,600 bytes, .*: choose a smaller seconds"):
        task(data)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"group": "("}, "is no regular expression"),
        ({"group": "s._"}, "has no group: put what must stay in one split in parentheses"),
        ({"seconds": 0.02}, "seconds 0.02 are shorter than a window of 0.025"),
        ({"sample_rate": 10}, "greater than or equal to 1000"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=words):
        config(tmp_path, **settings)


SPACE = {"version": 1, "steps": [{"one_of": [{"technique": "low_bit", "bits": [6, 8]}, "float16"]}]}


def test_a_classifier_of_sounds_is_searched_and_its_card_says_how_to_make_its_input(data: Path) -> None:
    (data.parent / "space.yaml").write_text(yaml.safe_dump(SPACE))
    settings = {
        "study": "tones", "tracking": None, "search_space": "space.yaml", "budget": {"accuracy": 0.9},
        "task": {**config(data, group="^(s.)_").model_dump(), "baseline": {"epochs": 8, "batch_size": 4}},
        "search": {"trials": 1, "workers": 1},
    }  # fmt: skip
    (data.parent / "search.yaml").write_text(yaml.safe_dump(settings))
    ran = run(data.parent, "search", "search.yaml", "--executor", "inline")
    assert ran.code == 0, ran.err
    assert run(data.parent, "export", "tones", "--out", "chosen").code == 0
    card = (data.parent / "chosen" / "MODEL_CARD.md").read_text()
    assert "`input`: the mean of channels at 8000 Hz, full scale 1, cut to 1600 samples" in card
    session = onnxruntime.InferenceSession(data.parent / "chosen" / "model.onnx")
    for hertz, label in ((310, 1), (1450, 0)):
        seen = spectrogram(sine(hertz).astype(np.float32), Bands(RATE, 40))[None, None]
        assert session.run(None, {session.get_inputs()[0].name: seen})[0].argmax() == label
