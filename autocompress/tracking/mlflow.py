"""MLflow as a sink: what it holds can be rebuilt from the study at any time, and a search goes on without it."""

import getpass
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from ..outcome import Metrics
from ..urls import is_server, under
from .models import Logged, Taken, log_onnx, register
from .notes import Places, data_profile, front_view, run_name, run_page, study_note, table_page, trial_note
from .protocol import Row, StudyInfo, Summary
from .trouble import judging, status_of

# By this its page opens where runs of trained models are looked at, and not the one for agents.
KIND = {"mlflow.experimentKind": "custom_model_development"}
PICTURE, REPORT = "figures/front.png", "report.html"


def _silent(_: str) -> None:
    """Tell nobody."""


class MlflowTracker:
    """One parent run a study and one nested child run a trial, found again by their tags after a crash.

    note is told of what was deleted in MLflow and put back.
    """

    def __init__(self, uri: str, folder: Path, note: Callable[[str], None] = _silent) -> None:
        # MLflow keeps one store a URI in each process, whatever folder a relative one was looked for in.
        self._uri = uri if is_server(uri) else under(uri, Path.cwd())
        self._folder, self._note = folder, note
        self._client: Any = None
        self._info: StudyInfo | None = None
        self._forget()

    def _forget(self) -> None:
        self._experiment = self._parent = ""
        self._children: dict[int, str] = {}
        self._finished: set[int] = set()
        self._models: dict[int, str] = {}  # what MLflow calls the model of a trial
        self._texts: dict[int, str] = {}
        self._files: set[str] = set()
        self._front: set[int] = set()
        self._points: set[int] = set()

    def begin(self, info: StudyInfo) -> None:
        """Find or make experiment and parent run, and find the children that an earlier search left."""
        self._info = info
        with judging(self._uri):
            self._client = _client(self._uri)
            self._experiment = self._ensure_experiment(info.experiment)
            self._ensure_parent(info)
            view = front_view(info.study, info.quality)
            self._client.set_experiment_tag(self._experiment, f"mlflow.sharedViewState.{self._parent}", view)
            self._find_children()

    def _ensure_parent(self, info: StudyInfo) -> None:
        tag = f"tags.`autocompress.study` = '{info.study}' AND tags.`autocompress.role` = 'parent'"
        found = self._client.search_runs([self._experiment], tag, max_results=1)
        if found:
            self._parent = found[0].info.run_id
            self._client.update_run(self._parent, status="RUNNING")
            self._points = {point.step for point in self._client.get_metric_history(self._parent, "hypervolume")}
        else:
            tags = {"autocompress.study": info.study, "autocompress.role": "parent", **self._source()}
            self._parent = self._client.create_run(self._experiment, run_name=info.study, tags=tags).info.run_id
        if not found or not found[0].data.params:
            # Parameters come last: where they are, an earlier call got this far.
            self._client.log_text(self._parent, info.config, "config.yaml")
            self._log_data(self._parent)
            self._batch(self._parent, info.params, {f"baseline_{key}": value for key, value in info.baseline.items()})

    def _ensure_experiment(self, name: str) -> str:
        """The experiment of that name: found, put back where it was deleted, else made, under another name if need be.

        A deleted experiment keeps its name and takes nothing, so that one that cannot be put back is in the way.
        """
        for other in (name, *(f"{name}-{number}" for number in range(2, 100))):
            known = self._client.get_experiment_by_name(other)
            if known is None:
                if other != name:
                    self._note(f"MLflow's experiment {name!r} was deleted and cannot be put back: {other!r} is used")
                return self._make_experiment(other)
            if known.lifecycle_stage == "active" or self._restored(known):
                self._ensure_kind(known)
                return str(known.experiment_id)
        raise ValueError(f"experiments {name!r} to {other!r} are deleted: restore one, or name another")

    def _make_experiment(self, name: str) -> str:
        server = is_server(self._uri)
        local = {} if server else {"artifact_location": (self._folder / "mlruns").resolve().as_uri()}
        return str(self._client.create_experiment(name, **local, tags=KIND))

    def _ensure_kind(self, experiment: Any) -> None:
        """Say what kind of runs an experiment holds, where nobody has said so."""
        for key, value in KIND.items():
            if experiment.tags.get(key, "no_inferred_type") in ("", "no_inferred_type"):
                self._client.set_experiment_tag(experiment.experiment_id, key, value)

    def _restored(self, experiment: Any) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self._client.restore_experiment(experiment.experiment_id)
        except MlflowException as error:
            if status_of(error) in (400, 403, 404, 409):
                return False
            raise
        self._note(f"MLflow's experiment {experiment.name!r} was deleted: it is put back, as this search logs to it")
        return True

    def _find_children(self) -> None:
        token = None
        while True:
            query = f"tags.mlflow.parentRunId = '{self._parent}'"
            page = self._client.search_runs([self._experiment], query, max_results=1000, page_token=token)
            for run in page:
                if "autocompress.trial" not in run.data.tags:
                    continue  # a run that somebody else nested here
                number = int(run.data.tags["autocompress.trial"])
                self._children[number] = run.info.run_id
                if run.info.status != "RUNNING":
                    self._finished.add(number)
                if run.data.tags.get("autocompress.front") == "true":
                    self._front.add(number)
                if "autocompress.model" in run.data.tags:
                    self._models[number] = run.data.tags.get("autocompress.model_id", "")
                self._texts[number] = run.info.run_name
            token = page.token
            if not token:
                return

    def log(self, row: Row) -> None:
        """One child run; a half-written one from before a crash is completed."""
        if row.number in self._finished:
            return
        with judging(self._uri):
            self._log(row)
        self._finished.add(row.number)

    def _log(self, row: Row) -> None:
        outcome = row.outcome
        metrics = getattr(outcome, "metrics", {})
        seconds = {f"seconds_{name}": value for name, value in outcome.seconds.items()}
        params = {
            f"step{index}.{key}": value
            for index, step in enumerate(row.recipe.steps, 1)
            for key, value in step.to_data().items()
        }
        tags = {
            "autocompress.outcome": outcome.type,
            "autocompress.front": "false",
            "autocompress.feasible": str(outcome.type == "completed").lower(),
            "autocompress.fingerprint": row.recipe.fingerprint,
            "autocompress.recipe": str(row.recipe)[:4000],
            **({"autocompress.reason": outcome.reason[:4000]} if hasattr(outcome, "reason") else {}),
            **self._words(row),
        }
        if row.number not in self._children:
            # Tags are given to a new run at once: in a batch each takes queries of its own.
            self._children[row.number] = self._make_child(row, tags)
            tags = {}
        run_id = self._children[row.number]
        self._batch(run_id, params, {**metrics, **seconds}, tags)
        self._client.log_text(run_id, row.recipe.to_yaml(), "recipe.yaml")
        self._log_data(run_id)
        status = "FAILED" if outcome.type == "failed" else "FINISHED"
        self._client.set_terminated(run_id, status, row.ended_ms)

    def _make_child(self, row: Row, tags: dict[str, str]) -> str:
        own = {
            "mlflow.parentRunId": self._parent,
            "autocompress.study": self._known.study,
            "autocompress.trial": str(row.number),
            **self._source(),
        }
        name, tags = self._name(row), {**own, **tags}
        run = self._client.create_run(self._experiment, start_time=row.started_ms, run_name=name, tags=tags)
        return str(run.info.run_id)

    def _name(self, row: Row) -> str:
        self._texts[row.number] = run_name(row.number, row.outcome, self._known.quality)
        return self._texts[row.number]

    def _words(self, row: Row) -> dict[str, str]:
        """A trial's name and description, as tags."""
        return {"mlflow.runName": self._name(row), "mlflow.note.content": trial_note(row, self._known.quality)}

    @property
    def _known(self) -> StudyInfo:
        assert self._info is not None, "begin comes first"
        return self._info

    def _source(self) -> dict[str, str]:
        """Who searches by what, as MLflow shows it."""
        tags = {"mlflow.source.name": self._known.source, "mlflow.source.type": "LOCAL"} if self._known.source else {}
        try:
            return {**tags, "mlflow.user": getpass.getuser()}
        except (KeyError, OSError):
            return tags  # this process's user has no name

    def _log_data(self, run_id: str) -> None:
        """What the run learned and measured on; logging it again adds nothing."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = self._known.data
        if data is not None:
            given = Dataset(data.name[:500], data.digest[:36], "local", data.name, profile=data_profile(data))
            self._client.log_inputs(run_id, [DatasetInput(given, [InputTag("mlflow.data.context", "training")])])

    def _batch(self, run_id: str, params: dict[str, Any], metrics: Metrics, tags: dict[str, str] | None = None) -> None:
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        self._client.log_batch(
            run_id,
            metrics=[Metric(key, float(value), now, 0) for key, value in metrics.items()],
            params=[Param(key, str(value)[:6000]) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in (tags or {}).items()],
        )

    def refresh(self, summary: Summary) -> None:
        """Front tags, test metrics, hypervolume over trials, verdict, figures and description."""
        with judging(self._uri, needed=False):
            self._refresh(summary)

    def _refresh(self, summary: Summary) -> None:
        from mlflow.entities import Metric

        front = set(summary.front)
        for number in front ^ self._front:
            if number in self._children:
                self._client.set_tag(self._children[number], "autocompress.front", str(number in front).lower())
        self._front = {number for number in front if number in self._children}
        now = int(time.time() * 1000)
        new = {step: value for step, value in summary.hypervolume.items() if step not in self._points}
        points = [Metric("hypervolume", value, now, step) for step, value in sorted(new.items())]
        extra = [Metric(name, value, now, 0) for name, value in summary.metrics.items()]
        self._client.log_batch(self._parent, metrics=[*points, *extra])
        self._points |= new.keys()
        self._client.set_tag(self._parent, "autocompress.verdict", summary.verdict)
        for name, data in summary.files.items():
            self._log_bytes(name, data)
        self._files |= summary.files.keys()
        if summary.note is not None:
            note = study_note(self._known.study, summary.note, self._places())
            self._client.set_tag(self._parent, "mlflow.note.content", note)

    def _places(self) -> Places:
        """Addresses within MLflow's page, which hold whatever host and path it is served from."""
        runs = {number: run_page(self._experiment, run_id) for number, run_id in self._children.items()}
        files = {
            number: f"ajax-api/2.0/mlflow/logged-models/{model}/artifacts/files?artifact_file_path=model.onnx"
            for number, model in self._models.items()
            if model
        }
        picture, report = (
            f"get-artifact?path={name}&run_uuid={self._parent}" if name in self._files else None
            for name in (PICTURE, REPORT)
        )
        return Places(runs, files, table_page(self._experiment, self._parent), picture, report)

    def _log_bytes(self, name: str, data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            path.write_bytes(data)
            parent = Path(name).parent.as_posix()
            self._client.log_artifact(self._parent, str(path), None if parent == "." else parent)

    def log_confirmed(self, row: Row, metrics: Metrics) -> None:
        """Metrics of a trial that was logged before it was confirmed, in the place of those that were taken again."""
        if row.number in self._children:
            with judging(self._uri, needed=False):
                tags = {"autocompress.feasible": str(row.outcome.type == "completed").lower(), **self._words(row)}
                self._batch(self._children[row.number], {}, metrics, tags)

    def log_model(self, number: int, data: bytes, example: tuple[Any, Any]) -> None:
        """An MLflow model of the ONNX flavour, once a trial."""
        if number in self._models or number not in self._children:
            return
        with judging(self._uri, needed=False):
            self._models[number] = self._log_model(number, data, example)

    def _log_model(self, number: int, data: bytes, example: tuple[Any, Any]) -> str:
        run_id, name = self._children[number], f"trial-{number}"
        ended_ms = self._client.get_run(run_id).info.end_time
        try:
            model_id = log_onnx(self._uri, run_id, name, data, example)
        finally:
            # The trial ended when it ended, and not when its model was logged.
            self._client.set_terminated(run_id, "FINISHED", ended_ms)
        self._client.set_tag(run_id, "autocompress.model_id", model_id)
        self._client.set_tag(run_id, "autocompress.model", name)
        return model_id

    def register(self, aliases: Mapping[str, int]) -> None:
        """A version for each model on the front that has none, under the study's name, and the aliases on them."""
        shown = {number: model for number, model in self._models.items() if number in self._front and model}
        models = {number: Logged(self._children[number], model, self._texts[number]) for number, model in shown.items()}
        study = self._known.study
        with judging(self._uri, needed=False):
            try:
                register(self._client, study, models, aliases)
            except Taken:
                self._note(f"MLflow has another registered model {study!r}: nothing is registered; rename one of them")

    def end(self, status: str) -> None:
        """Close the parent run."""
        with judging(self._uri, needed=False):
            self._client.set_terminated(self._parent, status)

    def run_ids(self) -> dict[int, str]:
        """The MLflow run of each logged trial."""
        return {number: self._children[number] for number in self._finished}

    def page(self) -> str:
        """The address of the parent run within MLflow's page."""
        return run_page(self._experiment, self._parent) if self._parent else ""

    def alive(self) -> bool:
        """Ask the store for something small, and put back experiment and parent run where they were deleted."""
        with judging(self._uri):
            self._knock()
            if self._parent:
                self._undelete()
        return True

    def _knock(self) -> None:
        if not is_server(self._uri):
            self._client.search_experiments(max_results=1)
            return
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        # The status itself: the client's errors lose it where a proxy refuses in JSON of its own.
        path, query = "/api/2.0/mlflow/experiments/search", {"max_results": 1}
        login, ask = cast(Any, get_default_host_creds), cast(Any, http_request)  # neither is typed
        ask(login(self._uri), path, "GET", params=query).raise_for_status()

    def _undelete(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            experiment = self._client.get_experiment(self._experiment)
            back = experiment.lifecycle_stage == "active" or self._restored(experiment)
            if back and self._client.get_run(self._parent).info.lifecycle_stage != "active":
                self._client.restore_run(self._parent)
                self._note("MLflow's run of this search was deleted: it is put back, as this search logs to it")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            back = False
        if not back and self._info is not None:
            self._forget()
            self.begin(self._info)
            self._note("MLflow no longer has this search's runs: they are made anew, earlier ones by --resume")


def _client(uri: str) -> Any:
    # Without these a store that went away would hold each call up for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # It logs each error that it raises, with its traceback.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

    return MlflowClient(tracking_uri=uri)
