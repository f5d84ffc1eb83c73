"""Verifying an artifact: the caller's task says what is compared, and what was not is named."""

import hashlib
import io
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tiny import TASK, configure, make_project, run

from autocompress.artifacts.measurement import parse_measurement
from autocompress.config import load_config
from autocompress.errors import ArtifactError
from autocompress.search.deliver import time_again
from autocompress.search.setup import Setup, set_up
from autocompress.search.verify import Again, NoTask, compare, measure_again, verify
from autocompress.terminal.changes import artifact_of
from autocompress.terminal.details import verify_parts

# Besides its accuracy this task says how large outputs are: 64 random inputs and weights give a few units.
SPREAD = """

class Spread(Classification):
    def metrics(self, output, target):
        return {**super().metrics(output, target), "spread": 1000 * float(output.std())}


def spread():
    return Spread(network, split(0, 64), split(1, 32), split(2, 32), baseline=None)


def wider():
    def wide():
        return nn.Sequential(nn.Flatten(), nn.Linear(100, 4))

    parts = [(torch.zeros(8, 1, 10, 10), torch.zeros(8, dtype=torch.int64)) for _ in range(3)]
    return Classification(wide, *parts, baseline=None)
"""
TIMES = ("latency_ms", "latency_ms_low", "latency_ms_high", "latency_ms_p90")
SPEEDUPS = ("speedup", "speedup_low", "speedup_high")
RATIOS = ("compression_ratio", "space_saving")
NO_TASK = NoTask("no task here")
Change = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Delivered:
    """A project with one artifact of its task, whose baseline is kept."""

    folder: Path
    artifact: Path
    setup: Setup
    again: Again

    def compare(self, change: Change, task: bool = True) -> dict[str, Any]:
        """What verify would say of a measurement that was changed; measuring is done once."""
        measurement = json.loads((self.artifact / "measurement.json").read_text())
        change(measurement)
        claims = parse_measurement(measurement)
        if task:
            return compare(claims, self.again, self.setup)
        return compare(claims, measure_again((self.artifact / "model.onnx").read_bytes(), NO_TASK), NO_TASK)

    def task(self, name: str, **changes: Any) -> Setup:
        """The task of another config in the same folder."""
        path = self.folder / f"{name}.yaml"
        configure(path, **{"task": "task.py:spread", "storage": f"sqlite:///{self.folder}/autocompress.db", **changes})
        return set_up(load_config(path))


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Delivered:
    folder = make_project(tmp_path_factory.mktemp("delivered"), task="task.py:spread")
    (folder / "task.py").write_text(TASK + SPREAD)
    assert run(folder, "search", "search.yaml", "--executor", "inline", "--trials", "1").code == 0
    ran = run(folder, "export", "tiny", "--trial", "0", "--out", "made")
    assert ran.code == 0, ran.err
    path = folder / "search.yaml"
    configure(path, task="task.py:spread", storage=f"sqlite:///{folder}/autocompress.db")
    setup = set_up(load_config(path))
    return Delivered(folder, folder / "made", setup, measure_again((folder / "made/model.onnx").read_bytes(), setup))


def rewrite(folder: Path, name: str, data: bytes) -> None:
    """Replace a file of an artifact, and its checksum with it, as a forger would."""
    old = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / name).write_bytes(data)
    sums = (folder / "SHA256SUMS").read_text()
    (folder / "SHA256SUMS").write_text(sums.replace(old, hashlib.sha256(data).hexdigest()))


@pytest.fixture
def forge(delivered: Delivered, tmp_path: Path) -> Callable[[Change], Path]:
    """A copy of the artifact with a measurement that was changed."""

    def made(change: Change) -> Path:
        folder = Path(shutil.copytree(delivered.artifact, tmp_path / "forged"))
        measurement = json.loads((folder / "measurement.json").read_text())
        change(measurement)
        rewrite(folder, "measurement.json", json.dumps(measurement).encode())
        return folder

    return made


Forge = Callable[[Change], Path]


def measured(**values: float) -> Change:
    """Claim other numbers of the file."""
    return lambda measurement: measurement["measured"].update(values)


def test_an_honest_artifact_holds_and_all_of_it_is_checked(delivered: Delivered) -> None:
    document = verify(delivered.artifact, delivered.setup)
    assert (document["wrong"], document["not_checked"]) == ([], {})
    assert document["quality"] == "accuracy"
    assert {"accuracy", "test_accuracy", "spread", "test_spread", "speedup", "params"} <= document["measured"].keys()
    claimed = json.loads((delivered.artifact / "measurement.json").read_text())["measured"]
    assert document["claimed"] == claimed


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("accuracy", lambda was: was + 0.01),
        ("test_accuracy", lambda was: was - 0.01),
        ("spread", lambda was: was * 1.01),
        ("test_spread", lambda was: was * 0.99),
        ("params", lambda was: was - 1),
        ("nonzero_params", lambda was: was + 1),
        ("size_bytes", lambda was: was - 1),
        ("compression_ratio", lambda was: was * 1.02),
        ("space_saving", lambda was: was + 0.02),
        ("speedup", lambda was: 100.0),
        ("speedup_high", lambda was: 100.0),
        ("latency_ms", lambda was: was / 100),
        ("latency_ms_p90", lambda was: was / 100),
    ],
)
def test_every_claim_is_compared(delivered: Delivered, name: str, change: Callable[[float], float]) -> None:
    wrong = delivered.compare(lambda m: measured(**{name: change(m["measured"][name])})(m))["wrong"]
    assert [reason.split()[0] for reason in wrong] == [name]
    assert ", claimed " in wrong[0]


def test_an_artifact_cannot_widen_what_its_speed_up_is_compared_with(delivered: Delivered) -> None:
    wrong = delivered.compare(measured(speedup=100.0, speedup_low=0.01, speedup_high=1000.0))["wrong"]
    assert {reason.split()[0] for reason in wrong} == set(SPEEDUPS)


def test_times_of_a_busy_moment_are_measured_again_before_they_are_said_not_to_hold(
    delivered: Delivered, forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = forge(measured(speedup=100.0, speedup_low=99.0, speedup_high=101.0))
    honest = json.loads((folder / "measurement.json").read_text())["measured"]
    claimed = {name: value for name, value in honest.items() if name in {*TIMES, *SPEEDUPS}}
    moments = [{**claimed, "speedup": 1.0, "speedup_low": 1.0, "speedup_high": 1.0}, claimed]
    monkeypatch.setattr("autocompress.search.verify.time_again", lambda *_: moments.pop(0))
    assert verify(folder, delivered.setup)["wrong"] == []
    assert moments == []


def test_times_that_never_hold_are_measured_three_times(
    delivered: Delivered, forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr("autocompress.search.verify.time_again", lambda *given: made.append(1) or time_again(*given))
    wrong = verify(forge(measured(speedup=100.0)), delivered.setup)["wrong"]
    assert [reason.split()[0] for reason in wrong] == ["speedup"]
    assert len(made) == 2


@pytest.mark.parametrize("quality", ["params", "spread"])
def test_the_task_and_not_the_artifact_says_what_quality_is(delivered: Delivered, quality: str) -> None:
    def change(measurement: dict[str, Any]) -> None:
        measurement["quality"] = quality
        measurement["measured"] = {**measurement["measured"], "accuracy": 1.0, "test_params": 1}

    document = delivered.compare(change)
    assert document["quality"] == "accuracy"
    assert f"quality is 'accuracy', claimed '{quality}'" in document["wrong"]
    assert any(reason.startswith("accuracy is ") for reason in document["wrong"])
    assert "test_params is claimed, which is no metric" in document["wrong"]


def test_a_size_is_no_quality_without_a_task_either(delivered: Delivered) -> None:
    def change(measurement: dict[str, Any]) -> None:
        measurement["quality"] = "params"
        measurement["measured"]["test_params"] = 1

    wrong = delivered.compare(change, task=False)["wrong"]
    assert "quality is said to be 'params', which is no metric of a task" in wrong


@pytest.mark.parametrize("task", [True, False], ids=["task", "no task"])
@pytest.mark.parametrize("block", ["measured", "claimed"])
def test_only_metrics_that_are_known_can_be_claimed(delivered: Delivered, forge: Forge, task: bool, block: str) -> None:
    wrong = delivered.compare(lambda measurement: measurement[block].update(goodness=7.0), task)["wrong"]
    assert wrong == ["goodness is claimed, which is no metric"]


def test_known_metrics_that_nobody_measures_here_are_named(delivered: Delivered) -> None:
    document = delivered.compare(measured(macs=5.0, test_label_loyalty=0.5))
    assert document["wrong"] == []
    assert document["not_checked"] == {"macs": "is not measured here", "test_label_loyalty": "is not measured here"}


def test_a_metric_of_the_task_that_is_not_claimed_is_named(delivered: Delivered) -> None:
    document = delivered.compare(lambda measurement: measurement["measured"].pop("spread"))
    assert (document["wrong"], document["not_checked"]) == ([], {"spread": "is not claimed"})


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**400, "0.9", True, None, [0.9], {"value": 0.9}])
@pytest.mark.parametrize("name", ["accuracy", "speedup"])
@pytest.mark.parametrize("block", ["measured", "claimed", "baseline"])
def test_what_is_no_finite_number_is_no_claim(
    delivered: Delivered, forge: Forge, block: str, name: str, value: Any
) -> None:
    folder = forge(lambda measurement: measurement[block].update({name: value}))
    with pytest.raises(ArtifactError, match=r"measurement\.json: holds no measurement"):
        verify(folder, NO_TASK)
    ran = run(delivered.folder, "verify", str(folder))
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)


# What is not checked


def test_without_a_task_sizes_are_compared_and_the_rest_is_named(delivered: Delivered, forge: Forge) -> None:
    document = verify(forge(measured(accuracy=1.0, speedup=100.0, params=1)), NO_TASK)
    assert [reason.split()[0] for reason in document["wrong"]] == ["params"]
    assert document["measured"].keys() == {"size_bytes", "params", "nonzero_params"}
    named = {*TIMES, *SPEEDUPS, *RATIOS, "accuracy", "test_accuracy", "spread", "test_spread", "baseline"}
    named |= {f"{split}{name}" for name in ("precision", "recall", "f1", "auroc") for split in ("", "test_")}
    assert document["not_checked"].keys() == named
    assert all(reason.endswith("no task here") for reason in document["not_checked"].values())


def test_without_a_baseline_ratios_must_fit_the_sizes_that_are_claimed(delivered: Delivered) -> None:
    document = delivered.compare(measured(space_saving=0.99), task=False)
    assert [reason.split()[0] for reason in document["wrong"]] == ["space_saving"]
    reason = document["not_checked"]["space_saving"]
    assert reason == "held against the claimed size of the uncompressed file only: no task here"


def test_without_a_kept_baseline_times_are_not_compared_and_that_is_said(delivered: Delivered, forge: Forge) -> None:
    other = delivered.task("other", search={"trials": 1, "seed": 7})
    document = verify(forge(measured(speedup=100.0, accuracy=0.0)), other)
    assert [reason.split()[0] for reason in document["wrong"]] == ["accuracy"]
    assert document["not_checked"].keys() == {*TIMES, *SPEEDUPS, *RATIOS, "baseline"}
    assert "no baseline of this task is kept here" in document["not_checked"]["speedup"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m["processor"].update(name="Another CPU"), "measured on another processor (Another CPU)"),
        (lambda m: m["target"].update(threads=4), "measured by onnxruntime-cpu with 4 threads and batch size 1"),
        (lambda m: m["target"].update(batch_size=8), "measured by onnxruntime-cpu with 1 threads and batch size 8"),
        (lambda m: m.pop("processor"), "the artifact does not say where it was measured"),
    ],
)
def test_times_of_another_machine_or_target_are_not_compared_and_that_is_said(
    delivered: Delivered, change: Change, reason: str
) -> None:
    def both(measurement: dict[str, Any]) -> None:
        change(measurement)
        measured(speedup=100.0, latency_ms=9.0, compression_ratio=90.0)(measurement)

    document = delivered.compare(both)
    assert [row.split()[0] for row in document["wrong"]] == ["compression_ratio"]
    assert document["not_checked"] == dict.fromkeys((*TIMES, *SPEEDUPS), reason)


def test_records_of_other_files_that_differ_from_what_is_known_here_are_named(delivered: Delivered) -> None:
    def change(measurement: dict[str, Any]) -> None:
        measurement["claimed"]["accuracy"] = 1.0
        measurement["baseline"] |= {"test_accuracy": 0.5, "latency_ms": 9.0}

    document = delivered.compare(change)
    assert document["wrong"] == []
    assert document["not_checked"].keys() == {"claimed", "baseline"}
    assert document["not_checked"]["claimed"].endswith(", claimed 1")
    assert "test_accuracy is 1, claimed 0.5" in document["not_checked"]["baseline"]
    assert "claimed 9 " in document["not_checked"]["baseline"]


def test_the_command_says_in_a_line_what_was_not_checked(delivered: Delivered, forge: Forge) -> None:
    folder = forge(lambda measurement: measurement.update(study="unknown"))
    ran = run(delivered.folder, "verify", str(folder))
    assert ran.code == 0
    lines = [line for line in ran.out.splitlines() if line.startswith("not checked: ")]
    assert "accuracy, " in "".join(lines)
    assert all("no study 'unknown' in the storage: give --config" in line for line in lines)
    assert ran.out.splitlines()[-1] == "holds"
    found = run(delivered.folder, "verify", str(folder), "--json").json()
    assert found["not_checked"]["accuracy"] == "no study 'unknown' in the storage: give --config"


def test_a_study_whose_config_is_gone_is_said_to_be(delivered: Delivered, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(delivered.folder, folder)
    original = delivered.folder.with_name("put away")
    delivered.folder.rename(original)
    try:
        found = run(folder, "verify", "made", "--json").json()
    finally:
        original.rename(delivered.folder)
    assert "is gone: put it back, or give --config" in found["not_checked"]["accuracy"]


def test_decisions_must_be_as_many_as_steps(delivered: Delivered, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(delivered.artifact, tmp_path / "forged"))
    steps = len(yaml.safe_load((folder / "recipe.yaml").read_text())["steps"])
    rewrite(folder, "decisions.json", b"[]")
    assert verify(folder, NO_TASK)["wrong"] == [f"decisions are 0, for {steps} steps"]


def test_a_model_of_another_task_is_an_error_in_one_line(delivered: Delivered) -> None:
    with pytest.raises(ArtifactError, match=r"model\.onnx: cannot be measured on this task \(.*give the config of its"):
        verify(delivered.artifact, delivered.task("wider", task="task.py:wider"))


# Any change at all

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["\ud800", "\x1b[2J", "size_bytes", "accuracy", 10**400, -(10**400), 1e308, 5e-324, "x" * 10**4]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
FILES = ("measurement.json", "decisions.json", "recipe.yaml", "environment.json")


@st.composite
def mutations(draw: st.DrawFn, artifact: Path) -> tuple[str, bytes]:
    """The name of one of an artifact's documents, and what it might hold in the place of what it does."""
    name = draw(st.sampled_from(FILES))
    text = (artifact / name).read_text()
    if draw(st.integers(0, 4)) == 0:
        start, length = draw(st.integers(0, len(text))), draw(st.integers(0, 20))
        spliced = text[:start] + draw(st.text(max_size=3)) + text[start + length :]
        return name, spliced.encode("utf-8", "surrogatepass")
    data = yaml.safe_load(text)
    for _ in range(draw(st.integers(1, 3))):
        data = mutated(draw, data)
    return name, json.dumps(data).encode()  # which is YAML too


def mutated(draw: st.DrawFn, data: Any) -> Any:
    """The data with one part replaced, lost or added."""
    if not isinstance(data, dict | list) or not data or draw(st.integers(0, 5)) == 0:
        return draw(VALUES)
    if isinstance(data, list):
        at = draw(st.integers(0, len(data) - 1))
        return [*data[:at], mutated(draw, data[at]), *data[at + 1 :]]
    key = draw(st.sampled_from(sorted(data)))
    match draw(st.integers(0, 9)):
        case 0:
            return {name: value for name, value in data.items() if name != key}
        case 1:
            return {**data, draw(st.text(max_size=5)): draw(VALUES)}
        case _:
            return {**data, key: mutated(draw, data[key])}


@settings(max_examples=200, deadline=None)
@given(drawn=st.data())
def test_no_change_of_an_artifact_s_documents_ends_in_anything_but_an_answer(
    delivered: Delivered, tmp_path_factory: pytest.TempPathFactory, drawn: st.DataObject
) -> None:
    console = Console(file=io.TextIOWrapper(io.BytesIO(), "utf-8"))
    name, data = drawn.draw(mutations(delivered.artifact))
    folder = Path(shutil.copytree(delivered.artifact, tmp_path_factory.mktemp("mutated") / "made"))
    rewrite(folder, name, data)
    # Without a baseline, as times take two seconds each.
    for task in (NO_TASK, delivered.task("unmeasured", search={"trials": 1, "seed": 9})):
        document = or_refused(lambda task=task: verify(folder, task))
        if document is not None:
            json.dumps(document, allow_nan=False)
            for part in verify_parts(document):
                console.print(part)
    or_refused(lambda: artifact_of(folder))


def or_refused(call: Callable[[], Any]) -> Any:
    """What a call returns; None where it refuses the artifact, which it must do in one line."""
    try:
        return call()
    except ArtifactError as error:
        refusal = str(error)
    assert "\n" not in refusal
    return None
