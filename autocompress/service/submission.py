"""From an uploaded folder, or a bundled experiment, to a search that can be queued."""

import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import yaml

from ..config import SearchConfig, find_config, study_name
from ..documents import Document, read_yaml, validate
from ..errors import ConfigError, unwritten
from ..search.storage import study_names
from .archives import pack, unpack
from .database import Search
from .problems import Refusal
from .queue import Submission, taken
from .settings import Settings
from .sweeping import in_use

DERIVED = ".autocompress-service.yaml"  # the config that is run: the submitted one, with the server's own places
PLACES = ("storage", "tracking", "ray")
TWINS = {"size": "size_bytes", "size_bytes": "size", "latency": "latency_ms", "latency_ms": "latency"}


@dataclass(frozen=True)
class Form:
    """What a client sends with an archive, or in its place: the path of the config in it, or a bundled experiment.

    budget holds entries that replace the config's own.
    """

    config: str = "search.yaml"
    experiment: str | None = None
    study: str | None = None
    priority: int = 0
    trials: int | None = None
    timeout_s: float | None = None
    workers: int | None = None
    budget: dict[str, Any] | None = None
    key: str | None = None


class Places:
    """Where a server keeps the folders of its searches."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def search(self, identity: str) -> Path:
        """The folder of one search."""
        return self._settings.folder / "searches" / identity

    def project(self, search: Search) -> Path:
        """The folder that was submitted, in which its controller works."""
        return self.search(search.id) / "project"

    def derived(self, search: Search) -> Path:
        """The config that its controller is given."""
        return (self.project(search) / search.config).with_name(DERIVED)

    @contextmanager
    def incoming(self, identity: str) -> Iterator[Path]:
        """A new folder for a project, held until its search is written; gone with what failed meanwhile."""
        folder = self.search(identity)
        try:
            folder.mkdir(parents=True)
            with in_use(folder):
                yield folder / "project"
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise unwritten(error, folder) from error
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def receive(form: Form, archive: IO[bytes] | None, project: Path) -> str:
    """Put a project into a new folder, and return the digest of its contents. Raises Refusal or ConfigError."""
    if (archive is None) == (form.experiment is None):
        raise Refusal(
            422, "one of archive and experiment is needed", "form", "a search has one project", "send one of them"
        )
    if archive is None:
        assert form.experiment is not None
        if not re.fullmatch(r"[A-Za-z0-9_-]+", form.experiment):
            raise ConfigError(f"experiment: {form.experiment!r} is no name: see `autocompress search --help`")
        folder = find_config(form.experiment).resolve().parent
        archive = io.BytesIO(pack(folder).data)
    return unpack(archive, project)


def prepare(form: Form, project: Path, content: str, identity: str, settings: Settings) -> Submission:
    """Check the config of a project and write the one that is run. Raises ConfigError, or Refusal for its place."""
    place = PurePosixPath(form.config)
    if place.is_absolute() or ".." in place.parts or len(form.config) > 400:
        raise Refusal(422, f"{form.config!r} leads out of the archive", "config", "a config lies in it", "name it so")
    path = project / form.config
    if not path.is_file():
        raise Refusal(
            422,
            f"there is no file {form.config!r} in the archive",
            "config",
            "the config travels with its folder",
            "name it by its path in the archive, or send the folder that holds it",
        )
    document = read_yaml(path)
    config = check(document, form, settings)
    if config.study in study_names(settings.storage):
        raise taken(config.study)
    _write(path.with_name(DERIVED), _derived(_budgeted(document.data, form), config, settings))
    return Submission(
        config.study,
        form.config,
        path.read_text(),
        content,
        form.key,
        form.priority,
        form.trials,
        form.timeout_s or config.search.timeout,
        config.search.workers,
        identity,
    )


def check(document: Document, form: Form, settings: Settings) -> SearchConfig:
    """The config as it will be run; errors name lines of the submitted file. Raises ConfigError."""
    data = {key: value for key, value in _budgeted(document.data, form).items() if key not in PLACES}
    ray = document.data.get("ray")
    if isinstance(ray, dict) and "runtime_env" in ray:
        data["ray"] = {"runtime_env": ray["runtime_env"]}
    if form.study is not None:
        data["study"] = form.study
    data.setdefault("study", study_name(Path(form.config).resolve().parent.name))
    search = data.get("search", {})
    if isinstance(search, dict):
        given = {"trials": form.trials, "workers": form.workers}
        data["search"] = {**search, **{key: value for key, value in given.items() if value is not None}}
    named = form.experiment or form.config
    return validate(SearchConfig, Document(named, data, document.lines))


def _budgeted(data: dict[str, Any], form: Form) -> dict[str, Any]:
    """The config with the form's limits in the place of its own, however those are spelt."""
    own = data.get("budget") or {}
    if not form.budget or not isinstance(own, dict):
        return data
    kept = {name: value for name, value in own.items() if TWINS.get(name) not in form.budget}
    return {**data, "budget": {**kept, **form.budget}}


def _derived(data: dict[str, Any], config: SearchConfig, settings: Settings) -> str:
    """The config with the server's storage, tracking store and cluster; one without tracking stays without."""
    tracking = data.get("tracking", {})
    experiment = tracking.get("experiment") if isinstance(tracking, dict) else None
    none = "tracking" in data and tracking is None
    containers = {} if config.ray.runtime_env is None else {"runtime_env": config.ray.runtime_env.model_dump()}
    places = {
        "study": config.study,
        "storage": settings.storage,
        "tracking": None if none else _tracking(settings, experiment or config.study),
        "ray": {"address": settings.ray, **containers},
    }
    text: str = yaml.safe_dump({**data, **places}, sort_keys=False, allow_unicode=True)
    return text


def _tracking(settings: Settings, experiment: str) -> dict[str, Any]:
    return {"uri": settings.tracking, "experiment": experiment, "server": settings.address}


def _write(path: Path, text: str) -> None:
    """Write a file that its owner alone may read, as URLs hold passwords."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
    except OSError as error:
        raise unwritten(error, path) from error


def command(search: Search, config: Path, executor: str, workers: int | None) -> list[str]:
    """The search command of a run: it goes on with what there is, within the time that is left."""
    options: dict[str, object] = {"--trials": search.trials, "--workers": workers, "--executor": executor}
    if search.timeout_s is not None:
        options["--timeout"] = f"{max(1.0, search.timeout_s - search.spent_s):.0f}s"
    given = [str(part) for name, value in options.items() if value is not None for part in (name, value)]
    return ["search", str(config), "--resume", "--json", *given]
