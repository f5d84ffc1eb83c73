"""Search configs: units, budgets, identity, and what is found where."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from autocompress.config import DURATIONS, FOLDERS, MILLISECONDS, SIZES, Budget, SearchConfig, find_config, load_config
from autocompress.documents import Document, validate
from autocompress.errors import ConfigError
from autocompress.outcome import Limit
from autocompress.recipe import Choice, Range
from autocompress.search.results import _with_units
from autocompress.search.space_file import find_space, load_space

BASELINE = {
    "size_bytes": 1_000_000.0,
    "params": 250_000.0,
    "latency_ms": 2.0,
    "speedup": 1.0,
    "compression_ratio": 1.0,
    "accuracy": 0.9,
    "f1": 0.8,
}


def config(**changes: Any) -> SearchConfig:
    """A config of a study and a task, with changes."""
    return validate(SearchConfig, Document("config.yaml", {"study": "s", "task": "task.py:f", **changes}))


def write(folder: Path, **data: Any) -> Path:
    """A config file."""
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump({"task": "task.py:f", **data}, sort_keys=False))
    return path


def refused(**changes: Any) -> str:
    """The message with which a config is refused: one line that names the file."""
    with pytest.raises(ConfigError) as caught:
        config(**changes)
    message = str(caught.value)
    assert message.startswith("config.yaml: ")
    assert len(message.splitlines()) == 1
    return message


# Units


@pytest.mark.parametrize(
    ("written", "size_bytes"),
    [
        ("60 KB", 60_000),
        ("60KB", 60_000),
        ("60 kb", 60_000),
        (" 60  Kb ", 60_000),
        ("60 KiB", 61_440),  # 60 * 1024
        ("1.5 MB", 1_500_000),
        (".5 MiB", 524_288),  # 1024 * 1024 / 2
        ("2 GB", 2_000_000_000),
        ("1 GiB", 1_073_741_824),  # 1024 ** 3
        ("812 B", 812),
        ("1e3 B", 1000),
    ],
)
def test_sizes_are_read_with_their_unit(written: str, size_bytes: float) -> None:
    assert config(budget={"size": written}).budget.size == size_bytes


@pytest.mark.parametrize(
    ("written", "latency_ms"), [("0.2 ms", 0.2), ("200 us", 0.2), ("2 s", 2000.0), ("500 ns", 0.0005)]
)
def test_latencies_are_read_in_milliseconds(written: str, latency_ms: float) -> None:
    assert config(budget={"latency": written}).budget.latency == pytest.approx(latency_ms, rel=1e-12)


@pytest.mark.parametrize(
    ("written", "seconds"), [("90s", 90), ("10m", 600), ("10 min", 600), ("2h", 7200), ("1d", 86_400), ("0.5 h", 1800)]
)
def test_durations_are_read_in_seconds(written: str, seconds: float) -> None:
    assert config(search={"timeout": written}).search.timeout == seconds


@pytest.mark.parametrize("value", [60, 60.0, "60", "60000", "", "KB", "60 XB", "6 0 KB", "60 K B", "60 KB extra", None])
def test_a_size_without_a_known_unit_is_refused(value: object) -> None:
    if value is None:
        assert config(budget={"size": None}).budget.size is None
    else:
        assert "unit" in refused(budget={"size": value})


def test_an_unknown_unit_is_refused_with_the_known_ones() -> None:
    message = refused(budget={"size": "60 XB"})
    assert message == "config.yaml: budget.size: '60 XB': unknown unit 'XB'; known: b, kb, mb, gb, kib, mib, gib"


@pytest.mark.parametrize("key", ["size", "size_bytes", "latency", "latency_ms", "params", "speedup", "accuracy"])
@pytest.mark.parametrize("sign", ["0", "-1"])
def test_limits_of_zero_or_less_are_refused(key: str, sign: str) -> None:
    unit = {"size": " KB", "latency": " ms"}.get(key)
    value: Any = sign + unit if unit else int(sign)
    assert f"budget.{key}: " in refused(budget={key: value})


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("key", ["size_bytes", "latency_ms", "speedup", "compression_ratio", "params"])
def test_limits_that_are_no_finite_number_are_refused(key: str, value: float) -> None:
    assert f"budget.{key}: " in refused(budget={key: value})


@given(st.floats(1e-6, 1e12, allow_nan=False), st.sampled_from([*SIZES.items()]))
def test_any_size_times_its_unit_is_the_limit(number: float, unit: tuple[str, float]) -> None:
    found = Budget.model_validate({"size": f"{number!r} {unit[0]}"}).size
    assert found == pytest.approx(number * unit[1], rel=1e-12)


def test_units_are_what_their_names_say() -> None:
    assert SIZES["kib"] ** 3 == SIZES["gib"]
    assert SIZES["kb"] ** 3 == SIZES["gb"]
    assert MILLISECONDS["s"] / MILLISECONDS["ns"] == pytest.approx(1e9)
    assert DURATIONS["d"] / DURATIONS["min"] == 1440  # minutes of a day


# Budgets


def limits(**budget: Any) -> dict[str, Limit]:
    """The limits of a budget against BASELINE, by label."""
    found = config(budget=budget).budget.limits(BASELINE)
    assert len({limit.label for limit in found}) == len(found)
    return {limit.label: limit for limit in found}


def test_every_entry_of_a_budget_becomes_a_limit() -> None:
    found = limits(
        size="60 KB",
        compression_ratio=30,
        params=1000,
        latency="0.2 ms",
        speedup=1.5,
        accuracy=0.85,
        accuracy_drop=0.01,
        metrics={"f1": 0.7},
    )
    assert {label: (limit.metric, limit.sense, round(limit.bound, 9)) for label, limit in found.items()} == {
        "size": ("size_bytes", "at_most", 60_000),
        "compression_ratio": ("compression_ratio", "at_least", 30),
        "params": ("params", "at_most", 1000),
        "latency": ("latency_ms", "at_most", 0.2),
        "speedup": ("speedup", "at_least", 1.5),
        "accuracy": ("accuracy", "at_least", 0.85),
        "accuracy_drop": ("accuracy", "at_least", 0.89),  # 0.9 - 0.01
        "f1": ("f1", "at_least", 0.7),
    }


def test_both_spellings_of_a_limit_mean_the_same() -> None:
    assert limits(size="60 KB") == limits(size_bytes=60_000)
    assert limits(latency="200 us")["latency"].bound == pytest.approx(limits(latency_ms=0.2)["latency"].bound)


@pytest.mark.parametrize(
    "both", [{"size": "1 KB", "size_bytes": 1000}, {"latency": "1 ms", "latency_ms": 1}], ids=["size", "latency"]
)
def test_both_spellings_at_once_are_refused(both: dict[str, Any]) -> None:
    assert "set the same limit: keep one" in refused(budget=both)


def test_no_budget_sets_no_limit() -> None:
    assert config().budget.limits(BASELINE) == ()


def test_a_drop_of_zero_is_a_limit() -> None:
    assert limits(accuracy_drop=0)["accuracy_drop"].bound == 0.9


@pytest.mark.parametrize("metrics", [{"auroc": 0.9}, {"f2": 0.5}])
def test_a_limit_on_what_nobody_measures_is_refused(metrics: dict[str, float]) -> None:
    name = next(iter(metrics))
    with pytest.raises(ConfigError, match=f"budget.metrics.{name}: the task does not measure '{name}'; "):
        config(budget={"metrics": metrics}).budget.limits(BASELINE)


def test_accuracy_of_a_task_that_measures_something_else_is_refused() -> None:
    bare = {key: value for key, value in BASELINE.items() if key != "accuracy"}
    for budget in ({"accuracy": 0.5}, {"accuracy_drop": 0.1}):
        with pytest.raises(ConfigError, match="does not measure 'accuracy'"):
            config(budget=budget).budget.limits(bare)


@pytest.mark.parametrize(
    ("limit", "metrics", "violation"),
    [
        (Limit("size_bytes", "at_most", 100.0, "size"), {"size_bytes": 150.0}, 0.5),  # (150 - 100) / 100
        (Limit("size_bytes", "at_most", 100.0, "size"), {"size_bytes": 100.0}, 0.0),
        (Limit("size_bytes", "at_most", 100.0, "size"), {"size_bytes": 75.0}, -0.25),
        (Limit("speedup", "at_least", 2.0, "speedup"), {"speedup": 1.5}, 0.25),  # (2 - 1.5) / 2
        (Limit("speedup", "at_least", 2.0, "speedup"), {"speedup": 3.0}, -0.5),
        (Limit("speedup", "at_least", 2.0, "speedup"), {}, 1.0),
    ],
)
def test_violations_are_shares_of_the_limit(limit: Limit, metrics: dict[str, float], violation: float) -> None:
    assert limit.violation(metrics) == pytest.approx(violation)


# Identity


@pytest.mark.parametrize(
    "changes",
    [
        {"search": {"trials": 7}},
        {"search": {"timeout": "1m"}},
        {"search": {"trial_timeout": "1m"}},
        {"search": {"workers": 5}},
        {"search": {"retries": 0}},
        {"search": {"sampler": "random"}},
        {"storage": "sqlite:///other.db"},
        {"tracking": None},
        {"ray": {"address": "local"}},
        {"train": {"loader_workers": 2}},
        {"budget": {}},
        {"search": {"seed": 0}},
    ],
)
def test_how_long_where_and_how_wide_a_search_runs_is_not_its_identity(changes: dict[str, Any]) -> None:
    assert config(**changes).identity() == config().identity()


@pytest.mark.parametrize(
    "changes",
    [
        {"study": "other"},
        {"task": "task.py:g"},
        {"search_space": "other.yaml"},
        {"target": {"threads": 2}},
        {"objectives": ["size_bytes", "accuracy"]},
        {"objectives": ["accuracy", "size_bytes", "latency_ms"]},
        {"budget": {"size": "1 KB"}},
        {"search": {"seed": 1}},
    ],
)
def test_what_is_searched_for_is_its_identity(changes: dict[str, Any]) -> None:
    assert config(**changes).identity() != config().identity()


# Defaults, checks and overrides


def test_defaults_are_those_of_the_documentation() -> None:
    found = config()
    assert found.search_space == "hybrid"
    assert (found.target.runtime, found.target.threads, found.target.batch_size) == ("onnxruntime-cpu", 1, 1)
    assert found.objectives == ("size_bytes", "accuracy", "latency_ms")
    assert (found.search.trials, found.search.timeout, found.search.sampler) == (40, None, "auto")
    assert (found.search.seed, found.search.workers, found.search.retries) == (0, 2, 1)
    assert found.storage == "sqlite:///autocompress.db"
    assert found.tracking is not None
    assert found.tracking.uri == "sqlite:///mlflow.db"
    assert found.ray.address == "auto"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"study": "a b"}, "study: 'a b': "),
        ({"study": ""}, "study: '': "),
        ({"study": "../up"}, "study: '../up': "),
        ({"task": 5}, "task: 5: "),
        ({"taks": 5}, "taks: unknown key; did you mean 'task'?"),
        ({"budget": {"sise": "1 KB"}}, "budget.sise: unknown key; did you mean 'size'?"),
        ({"budget": {"accuracy": 1.5}}, "budget.accuracy: 1.5: "),
        ({"budget": {"accuracy_drop": 1}}, "budget.accuracy_drop: 1: "),
        ({"budget": {"metrics": {"f1": "high"}}}, "budget.metrics.f1: 'high': "),
        ({"search": {"trials": 0}}, "search.trials: 0: "),
        ({"search": {"trials": 2.5}}, "search.trials: 2.5: "),
        ({"search": {"workers": 0}}, "search.workers: 0: "),
        ({"search": {"seed": -1}}, "search.seed: -1: "),
        ({"search": {"timeout": 10}}, "search.timeout: 10: needs a unit; write for example '10m'"),
        ({"search": {"timeout": "0s"}}, "search.timeout: "),
        ({"search": {"sampler": "tpee"}}, "search.sampler: unknown sampler 'tpee'; did you mean 'tpe'?"),
        ({"search": {"sampler": ["tpe"]}}, "search.sampler: unknown sampler ['tpe']; "),
        ({"search": None}, "search: None: "),
        ({"target": {"runtime": "tensorrt"}}, "target.runtime: 'tensorrt': "),
        ({"target": {"threads": 0}}, "target.threads: 0: "),
        ({"objectives": []}, "objectives: []: "),
        ({"objectives": "accuracy"}, "objectives: 'accuracy': "),
        ({"objectives": ["accuracy", "accuracy"]}, "objectives: an objective stands twice: name each once"),
        ({"storage": "autocompress.db"}, "storage: 'autocompress.db': storage needs a URL, such as sqlite:///"),
        ({"storage": "sqlite:///no/such/folder/a.db"}, "folder no/such/folder is not there: make it, or choose"),
        ({"tracking": {"uri": "mlruns"}}, "tracking.uri needs a URL"),
        ({"tracking": {"uri": "sqlite:///no/such/folder/a.db"}}, "folder no/such/folder is not there"),
    ],
)
def test_what_cannot_be_is_refused_with_key_value_and_rule(changes: dict[str, Any], message: str) -> None:
    assert message in refused(**changes)


def test_workers_run_in_an_image_that_holds_the_task() -> None:
    ray = {"runtime_env": {"image_uri": "docker.io/team/task:1.0"}}
    assert config(task="team.task:make", ray=ray).ray.image == "docker.io/team/task:1.0"
    assert config().ray.image is None
    assert "'task.py:f' is a file: install it in the image" in refused(ray=ray)
    assert "'net.py:Net' is a file" in refused(task={"model": "net.py:Net"}, ray=ray)
    assert "ray.runtime_env.image_uri" in refused(task="team.task:make", ray={"runtime_env": {"image_uri": "--rm x"}})
    two = {"image_uri": "x", "pip": ["y"]}
    assert "ray.runtime_env.pip" in refused(task="team.task:make", ray={"runtime_env": two})


def test_what_is_shown_of_a_config_holds_no_password() -> None:
    uri = {"uri": "http://ann:secret-1@mlflow:5000"}
    found = config(storage="postgresql://ann:secret-2@db/studies", tracking=uri).shown()
    assert "secret" not in str(found)
    assert found["storage"] == "postgresql://ann:***@db/studies"
    assert config(tracking=None).shown() == config(tracking=None).model_dump(mode="json")


def test_models_are_registered_on_request_and_the_request_is_kept_with_the_study() -> None:
    assert config().tracking.registers is False  # type: ignore[union-attr]
    asked = config(tracking={"register": True})
    assert asked.tracking is not None
    assert asked.tracking.registers
    kept = asked.model_dump(mode="json")["tracking"]
    assert kept == {"uri": "sqlite:///mlflow.db", "experiment": None, "register": True, "server": None}
    assert config(tracking=kept).tracking == asked.tracking
    assert asked.identity() == config().identity()


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "https://tracking.example.org"])
def test_a_tracking_server_may_be_an_address(uri: str) -> None:
    found = config(tracking={"uri": uri}).tracking
    assert found is not None
    assert found.uri == uri


def test_errors_name_file_line_and_key(tmp_path: Path) -> None:
    path = write(tmp_path, study="s", search={"workers": 1, "trials": -3})
    line = 1 + path.read_text().splitlines().index("  trials: -3")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}:{line}: search.trials: -3: ")


def test_overrides_replace_entries_of_search(tmp_path: Path) -> None:
    path = write(tmp_path, study="s", search={"trials": 5, "workers": 3, "timeout": "1h"})
    found = load_config(path, trials=9, timeout="90s", workers=None).search
    assert (found.trials, found.timeout, found.workers) == (9, 90, 3)


def test_overrides_need_no_search_entry(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, study="s"), trials=9).search.trials == 9


def test_overrides_are_checked_like_entries(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"search\.timeout: 'soon': "):
        load_config(write(tmp_path, study="s"), timeout="soon")


def test_a_study_is_named_after_its_folder_unless_it_says_otherwise(tmp_path: Path) -> None:
    folder = tmp_path / "my nets"
    folder.mkdir()
    assert load_config(write(folder)).study == "my-nets"
    assert load_config(write(folder, study="other")).study == "other"


def test_relative_paths_start_at_the_folder_of_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", study="s")
    monkeypatch.chdir(tmp_path)
    assert load_config(Path("deep/search.yaml")).root == tmp_path / "deep"


# What is bundled


@pytest.mark.parametrize("name", sorted(path.parent.name for path in FOLDERS["experiments"].glob("*/search.yaml")))
def test_every_bundled_experiment_is_found_from_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = load_config(find_config(name))
    assert found.root.name == name
    assert load_space(find_space(found.search_space, found.root)).groups


def test_the_documented_experiment_and_space_are_bundled() -> None:
    assert find_config("mnist5k_lenet").is_file()
    assert find_space("hybrid", Path("/")).is_file()


@pytest.mark.parametrize("path", sorted(FOLDERS["search_spaces"].glob("*.yaml")), ids=lambda path: path.stem)
def test_every_bundled_space_is_valid(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space = load_space(find_space(path.stem, tmp_path))
    domains = [d for group in space.groups for option in group.options if option for d in option.searched.values()]
    assert all(isinstance(domain, Range | Choice) for domain in domains)
    assert space.count() > 1


def test_a_file_comes_before_a_bundled_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist5k_lenet").write_text("study: mine\ntask: task.py:f\n")
    assert load_config(find_config("mnist5k_lenet")).study == "mine"


@pytest.mark.parametrize("name", ["mnist5k_lenett", "nothing/like/it", "..", ""])
def test_a_config_that_is_nowhere_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no such config file or bundled experiment; .*mnist5k_lenet"):
        find_config(name)


# What a study keeps of its config


@given(
    size=st.none() | st.floats(1e-3, 1e12),
    latency=st.none() | st.floats(1e-9, 1e6),
    timeout=st.none() | st.floats(1e-3, 1e6),
    trial_timeout=st.floats(1e-3, 1e6),
)
def test_a_kept_config_is_read_back_as_it_was(
    size: float | None, latency: float | None, timeout: float | None, trial_timeout: float
) -> None:
    first = config(
        budget={
            "size": None if size is None else f"{size!r} B",
            "latency": None if latency is None else f"{latency!r} ms",
        },
        search={"timeout": None if timeout is None else f"{timeout!r} s", "trial_timeout": f"{trial_timeout!r} s"},
    )
    again = SearchConfig.model_validate(_with_units(first.model_dump(mode="json")))
    assert again.model_dump() == first.model_dump()
    assert again.identity() == first.identity()
