"""The scripts that make data for experiments/domains, and that its configs take what they make."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autocompress.config import load_config
from autocompress.search.setup import task_reference
from autocompress.tasks import load_task

FOLDER = Path(__file__).parent.parent / "experiments" / "domains"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("segmentation_data", "audio_data"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for path in FOLDER.glob("*.yaml"):
        shutil.copy(path, tmp_path)


def test_shapes_are_the_same_each_time_and_every_class_is_among_them(tmp_path: Path) -> None:
    import segmentation_data as script  # type: ignore[import-not-found]

    for name in ("shapes", "again"):
        script.write(tmp_path / name, 20)
    for path in (tmp_path / "shapes").rglob("*.png"):
        other = tmp_path / "again" / path.relative_to(tmp_path / "shapes")
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(other)))
    found = load_task(task_reference(load_config(tmp_path / "segmentation.yaml")))
    masks = np.concatenate([found.split(name)[:][1] for name in ("train", "validation", "test")])  # type: ignore[index]
    assert len(masks) == 20
    assert (np.bincount(masks.ravel(), minlength=4) > 100).all()


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_words_are_spoken_by_voices_that_stay_in_one_split(tmp_path: Path) -> None:
    import audio_data as script  # type: ignore[import-not-found]

    script.write(tmp_path / "words", 5)
    found = load_task(task_reference(load_config(tmp_path / "audio.yaml")))
    assert found.classes == tuple(sorted(script.WORDS))  # type: ignore[attr-defined]
    counts = [len(found.split(name)) for name in ("train", "validation", "test")]  # type: ignore[arg-type]
    voice = len(script.WORDS) * script.TAKES
    assert counts == [3 * voice, voice, voice]
