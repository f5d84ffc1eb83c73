"""From an artifact directory back to measurements, held against what it claims."""

from pathlib import Path
from typing import Any

from ..artifacts.directory import check_sums, read_measurement, recipe_document
from ..artifacts.runtime import Model
from ..config import find_config, load_config
from ..errors import StudyError
from ..measure.size import measure_size
from ..outcome import Metrics
from ..techniques import recipe_from_data
from .deliver import remeasure
from .results import Results
from .setup import Setup, set_up
from .store import StudyStore, study_names

QUALITY_TOLERANCE = 0.005


def task_of(folder: Path, config: str | None, storage: str) -> Setup | None:
    """The task that an artifact directory is measured on: of a config, or of the user's own study of that name.

    The directory only says the study's name: where code is loaded from is never taken from it.
    """
    if config is not None:
        return set_up(load_config(find_config(config)))
    check_sums(folder)
    name = str(read_measurement(folder)["study"])
    try:
        if name not in study_names(storage):
            return None
        return set_up(Results(StudyStore.open(storage, name)).config())
    except StudyError:
        return None


def verify(folder: Path, setup: Setup | None) -> tuple[dict[str, Any], list[str]]:
    """Measure an artifact directory again. Returns claimed and measured numbers, and what does not hold.

    Nothing in the directory is run but its model; the task comes from the caller. Without one, checksums, recipe and
    size are checked. Raises ArtifactError when the directory is damaged.
    """
    check_sums(folder)
    recipe_from_data(recipe_document(folder))
    measurement = read_measurement(folder)
    data = (folder / "model.onnx").read_bytes()
    if setup is None:
        Model(folder / "model.onnx")
        found: Metrics = measure_size(data)
    else:
        found = remeasure(data, setup, setup.files.load_baseline(setup.baseline_key))
    claimed: Metrics = measurement["measured"]
    quality = measurement["quality"]
    wrong = []
    if found["size_bytes"] != claimed["size_bytes"]:
        wrong.append(f"size_bytes is {found['size_bytes']:,.0f}, claimed {claimed['size_bytes']:,.0f}")
    for name in (quality, f"test_{quality}"):
        if name in found and abs(found[name] - claimed[name]) > QUALITY_TOLERANCE:
            wrong.append(f"{name} is {found[name]:.4f}, claimed {claimed[name]:.4f}")
    return {"study": measurement["study"], "quality": quality, "claimed": claimed, "measured": found}, wrong
