"""Trackers whose store is slow, locked, barred or tidied up meanwhile: MLflow's own server, held up on its way."""

import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from autocompress.tracking import background as handing
from autocompress.tracking.background import Background
from autocompress.tracking.mlflow import MlflowTracker
from autocompress.tracking.protocol import Away, Barred, MemoryTracker, Row, Summary
from autocompress.tracking.trouble import judging
from autocompress.urls import owners
from tracking.test_mlflow import EXAMPLE, Shaky, Store, file, info, logging, row, wait_until

Reply = Callable[[str, list[tuple[str, str]]], Any]


class Door:
    """Stands before the server's application: makes requests wait, or turns them away."""

    def __init__(self, application: Callable[[dict[str, Any], Reply], Iterable[bytes]]) -> None:
        self._application = application
        self.seconds = 0.0
        self.refusals: dict[str, tuple[str, bytes]] = {}  # by a part of the path
        self.asked = 0

    def __call__(self, environ: dict[str, Any], reply: Reply) -> Iterable[bytes]:
        """One request, as WSGI has it."""
        self.asked += 1
        threading.Event().wait(self.seconds)  # a server that takes its time
        for part, (status, body) in self.refusals.items():
            if part in environ["PATH_INFO"]:
                reply(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
                return [body]
        return self._application(environ, reply)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store for all tests; each has an experiment of its own in it."""
    return Store(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture(scope="module")
def served(store: Store) -> Iterator[tuple[str, Door]]:
    """MLflow's own application before that store, in a thread, with a door."""
    from mlflow.server import ARTIFACT_ROOT_ENV_VAR, BACKEND_STORE_URI_ENV_VAR, app, handlers
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:
            """Nobody reads it."""

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the server's own imports warn of what it uses
        import mlflow.server.fastapi_app  # noqa: F401

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(BACKEND_STORE_URI_ENV_VAR, store.uri)
        patch.setenv(ARTIFACT_ROOT_ENV_VAR, str(store.folder / "kept"))
        handlers.initialize_backend_stores(store.uri, default_artifact_root=str(store.folder / "kept"))
        door = Door(app)
        server = make_server("127.0.0.1", 0, door, threaded=True, request_handler=Quiet)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", door
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


@pytest.fixture
def door(served: tuple[str, Door]) -> Iterator[Door]:
    """The door, open again afterwards."""
    yield served[1]
    served[1].seconds, served[1].refusals = 0.0, {}


@pytest.fixture
def uri(served: tuple[str, Door]) -> str:
    """Where the server is."""
    return served[0]


@pytest.fixture
def notes() -> list[str]:
    """What people are told."""
    return []


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once, and show at once."""
    monkeypatch.setattr(handing, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(handing, "SHOW_SECONDS", 0.0)


def begin(tracker: Any, study: str, experiment: str = "experiment") -> None:
    tracker.begin(replace(info(study), experiment=experiment))


def status(client: MlflowClient, experiment: str) -> dict[str, str]:
    """How each run of an experiment stands, by the trial's number or the study's name."""
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id])
    numbers = [run.data.tags.get("autocompress.trial") for run in runs]
    names = [run.info.run_name if n is None else f"trial-{n}" for n, run in zip(numbers, runs, strict=True)]
    return {name: run.info.status for name, run in zip(names, runs, strict=True)}


# Slow, and lost


@pytest.mark.usefixtures("quick")
def test_a_slow_store_is_waited_for_as_long_as_it_takes_entries(
    store: Store, uri: str, door: Door, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handing, "LOST_SECONDS", 1.0)  # the whole takes longer, each entry does not
    door.seconds = 0.05
    background = Background(MlflowTracker(uri, store.folder, notes.append), notes.append)
    background.put(lambda tracker: begin(tracker, "slow", "slow"), needed=True)
    for number in range(6):
        background.put(logging(number))
    background.put(lambda tracker: tracker.end("FINISHED"))
    shown: list[int] = []
    began = time.monotonic()
    assert background.close(shown.append) == 0
    assert time.monotonic() - began > 1.0
    assert notes == []
    assert shown == sorted(set(shown), reverse=True)
    assert max(shown) > 1
    assert status(store.client, "slow") == {"slow": "FINISHED", **{f"trial-{n}": "FINISHED" for n in range(6)}}


@pytest.mark.usefixtures("quick")
def test_a_store_that_comes_back_at_the_end_gets_everything_and_its_parent_is_ended(notes: list[str]) -> None:
    tracker = Shaky()
    background = Background(tracker, notes.append)
    background.put(logging(0))
    wait_until(lambda: tracker.calls == [0])
    tracker.off.set()
    for number in range(14, 39):  # 13 is refused always
        background.put(logging(number))
    background.put(lambda it: it.end("FINISHED"))
    wait_until(lambda: background.away)

    def show(left: int) -> None:
        """It comes back while the end of the search waits for it."""
        assert left == 26
        tracker.off.clear()

    assert background.close(show) == 0
    assert tracker.calls == [0, *range(14, 39)]
    assert tracker.status == "FINISHED"
    assert [note.split(" (")[0].split(":")[0] for note in notes] == ["MLflow is away", "MLflow is back"]


@pytest.mark.usefixtures("quick")
def test_a_store_that_stays_away_is_given_up_after_a_time_without_success(
    notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handing, "LOST_SECONDS", 0.3)
    tracker = Shaky()
    background = Background(tracker, notes.append)
    background.put(logging(0))
    wait_until(lambda: tracker.calls == [0])
    tracker.off.set()
    for number in range(1, 4):
        background.put(logging(number))
    tries = tracker.tries
    began = time.monotonic()
    assert background.close() == 3
    assert 0.3 <= time.monotonic() - began < 10
    assert tracker.tries > tries + 2  # tried and tried again


def test_ctrl_c_ends_the_waiting(notes: list[str]) -> None:
    release = threading.Event()
    background = Background(MemoryTracker(), notes.append)
    background.put(lambda _: release.wait(30) and None)

    def interrupt(left: int) -> None:
        raise KeyboardInterrupt

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(handing, "SHOW_SECONDS", 0.0)
            assert background.close(interrupt) == 1
    finally:
        release.set()


@pytest.mark.usefixtures("quick")
def test_a_locked_store_is_away_and_nothing_of_it_is_left_out(tmp_path: Path, notes: list[str]) -> None:
    """It answers what is asked for reading, so that only the error itself tells a lock from a refusal."""

    class Locked(MemoryTracker):
        """Keeps rows in a file that others may hold."""

        def log(self, row: Row) -> None:
            """Write, or find it locked."""
            from mlflow.exceptions import MlflowException
            from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

            with judging("sqlite:///x"):
                try:
                    with closing(sqlite3.connect(tmp_path / "a.db", timeout=0)) as database:
                        database.execute("CREATE TABLE IF NOT EXISTS rows (number)")
                except sqlite3.OperationalError as error:  # as MLflow's store does
                    raise MlflowException(error, TEMPORARILY_UNAVAILABLE) from error
            super().log(row)

    tracker = Locked()
    background = Background(tracker, notes.append)
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        background.put(logging(0))
        wait_until(lambda: background.away)
        other.execute("ROLLBACK")
    assert background.close() == 0
    assert set(tracker.rows) == {0}
    assert notes[0] == "MLflow is away (database is locked): the search goes on and logs when it is back"


@pytest.mark.parametrize("status_line", ["503 SERVICE UNAVAILABLE", "429 TOO MANY REQUESTS", "502 BAD GATEWAY"])
def test_a_server_with_too_much_to_do_is_away(store: Store, uri: str, door: Door, status_line: str) -> None:
    name = status_line[:3]
    tracker = MlflowTracker(uri, store.folder)
    begin(tracker, name, name)
    tracker.log(row(0))
    calls: list[Callable[[], None]] = [
        lambda: tracker.log(row(1)),
        lambda: tracker.refresh(Summary((), "feasible", {0: 1.0}, {})),
        lambda: tracker.log_confirmed(row(0), {"test_accuracy": 0.5}),
        lambda: tracker.end("FINISHED"),
    ]
    for call in calls:
        # Reading works: what is asked whether it is alive says yes.
        door.refusals = dict.fromkeys(("/create", "/log-batch", "/update", "/set-tag"), (status_line, b"<html>"))
        assert tracker.alive()
        with pytest.raises(Away):
            call()
        door.refusals = {}
        call()
    assert status(store.client, name) == {name: "FINISHED", "trial-0": "FINISHED", "trial-1": "FINISHED"}


def test_a_server_that_answers_too_late_is_away(
    store: Store, uri: str, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = MlflowTracker(uri, store.folder)
    begin(tracker, "late", "late")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    door.seconds = 1.2
    with pytest.raises(Away):
        tracker.log(row(0))


def test_an_entry_that_breaks_the_server_is_left_out_and_the_rest_is_logged(
    store: Store, uri: str, door: Door, notes: list[str]
) -> None:
    background = Background(MlflowTracker(uri, store.folder, notes.append), notes.append)
    background.put(lambda tracker: begin(tracker, "breaks", "breaks"), needed=True)
    wait_until(lambda: background.waiting == 0)
    door.refusals["/log-batch"] = ("500 INTERNAL SERVER ERROR", b"<html>")
    background.put(logging(0))
    wait_until(lambda: background.waiting == 0)
    door.refusals.clear()
    background.put(logging(1))
    assert background.close() == 0
    assert status(store.client, "breaks") == {"breaks": "RUNNING", "trial-0": "RUNNING", "trial-1": "FINISHED"}
    (note,) = notes
    assert note.startswith("MLflow refused an entry (")


def test_a_right_to_keep_models_that_is_missing_costs_the_models_alone(
    store: Store, uri: str, door: Door, notes: list[str]
) -> None:
    background = Background(MlflowTracker(uri, store.folder, notes.append), notes.append)
    background.put(lambda tracker: begin(tracker, "models", "models"), needed=True)
    background.put(logging(0))
    wait_until(lambda: background.waiting == 0)
    door.refusals["logged-models"] = ("403 FORBIDDEN", b"Permission denied")
    background.put(lambda tracker: tracker.log_model(0, file(), EXAMPLE))
    background.put(lambda tracker: tracker.end("FINISHED"))
    assert background.close() == 0
    assert status(store.client, "models") == {"models": "FINISHED", "trial-0": "FINISHED"}
    (note,) = notes
    assert note.startswith("MLflow refused an entry (")


# Barred

TEXT = b"You are not authenticated. Please see https://example.org"


@pytest.mark.parametrize("body", [TEXT, b'{"message": "no"}', b'{"error_code": "UNAUTHENTICATED", "message": "no"}'])
@pytest.mark.parametrize("when", ["at first", "later"])
def test_a_login_that_is_missing_is_said_once_with_what_to_do_and_nothing_more_is_tried(
    store: Store, uri: str, door: Door, notes: list[str], body: bytes, when: str
) -> None:
    background = Background(MlflowTracker(uri, store.folder, notes.append), notes.append)
    if when == "later":
        background.put(lambda tracker: begin(tracker, "login", "login"), needed=True)
        wait_until(lambda: background.waiting == 0)
    door.refusals[""] = ("401 UNAUTHORIZED", body)
    background.put(lambda tracker: begin(tracker, "login", "login"), needed=True)
    wait_until(lambda: background.barred is not None)
    asked = door.asked
    for number in range(3):
        background.put(logging(number))
    assert background.close() == 4
    assert door.asked == asked
    assert notes == [
        f"MLflow at {uri} wants a login (HTTP 401): set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD; the search goes on, and nothing more is logged"
    ]


def test_a_right_that_is_missing_is_said_with_the_server_s_words(store: Store, uri: str, door: Door) -> None:
    tracker = MlflowTracker(uri, store.folder)
    begin(tracker, "right", "right")
    door.refusals["/runs/create"] = ("403 FORBIDDEN", b"Permission denied")
    with pytest.raises(
        Barred, match=r"does not let this account in \(HTTP 403: .*Permission denied.*ask for the right"
    ):
        tracker.log(row(0))
    assert tracker.alive()  # reading is allowed


def test_a_tracker_that_cannot_even_begin_is_given_up_in_one_line(notes: list[str]) -> None:
    class Picky(MemoryTracker):
        """Knows no such experiment."""

        def begin(self, info: Any) -> None:
            """Refuse."""
            raise ValueError("bad name\nand more about it")

    background = Background(Picky(), notes.append)
    background.put(lambda tracker: begin(tracker, "picky"), needed=True)
    for number in range(5):
        background.put(logging(number))
    assert background.close() == 6
    (note,) = notes
    assert note.startswith("MLflow cannot be used (bad name): correct `tracking:`")


# Deleted


def test_an_experiment_that_was_deleted_is_put_back_with_its_runs(store: Store, uri: str, notes: list[str]) -> None:
    for place in (store.uri, uri):
        name = f"deleted-{place[:4]}"
        tracker = MlflowTracker(place, store.folder, notes.append)
        begin(tracker, name, name)
        tracker.log(row(0))
        client = MlflowClient(place)
        found = client.get_experiment_by_name(name)
        assert found is not None
        client.delete_experiment(found.experiment_id)
        later = MlflowTracker(place, store.folder, notes.append)
        begin(later, name, name)
        later.log(row(1))
        later.end("FINISHED")
        assert status(client, name) == {name: "FINISHED", "trial-0": "FINISHED", "trial-1": "FINISHED"}
        assert notes.pop() == f"MLflow's experiment {name!r} was deleted: it is put back, as this search logs to it"
        assert notes == []


@pytest.mark.parametrize("what", ["experiment", "run"])
def test_what_is_deleted_during_a_search_is_put_back_and_no_entry_left_out(
    store: Store, notes: list[str], what: str
) -> None:
    name = f"during-{what}"
    background = Background(MlflowTracker(store.uri, store.folder, notes.append), notes.append)
    background.put(lambda tracker: begin(tracker, name, name), needed=True)
    background.put(logging(0))
    wait_until(lambda: background.waiting == 0)
    found = store.client.get_experiment_by_name(name)
    assert found is not None
    if what == "experiment":
        store.client.delete_experiment(found.experiment_id)
    else:
        parent = next(r for r in store.client.search_runs([found.experiment_id]) if r.info.run_name == name)
        store.client.delete_run(parent.info.run_id)
    background.put(lambda tracker: tracker.refresh(Summary((0,), "feasible", {0: 0.5}, {})))
    background.put(logging(1))
    background.put(lambda tracker: tracker.end("FINISHED"))
    assert background.close() == 0
    assert status(store.client, name) == {name: "FINISHED", "trial-0": "FINISHED", "trial-1": "FINISHED"}
    (note,) = notes
    assert "was deleted: it is put back, as this search logs to it" in note


def test_an_experiment_that_cannot_be_put_back_is_replaced_by_one_of_another_name(
    store: Store, uri: str, door: Door, notes: list[str]
) -> None:
    begin(MlflowTracker(uri, store.folder), "gone", "gone")
    found = store.client.get_experiment_by_name("gone")
    assert found is not None
    store.client.delete_experiment(found.experiment_id)
    door.refusals["/experiments/restore"] = ("400 BAD REQUEST", b'{"error_code": "INVALID_PARAMETER_VALUE"}')
    for _ in range(2):  # and found again by the next search
        tracker = MlflowTracker(uri, store.folder, notes.append)
        begin(tracker, "gone", "gone")
        tracker.log(row(0))
    assert status(store.client, "gone-2") == {"gone": "RUNNING", "trial-0": "FINISHED"}
    assert notes == ["MLflow's experiment 'gone' was deleted and cannot be put back: 'gone-2' is used"]


def test_an_experiment_that_is_gone_for_good_is_made_anew(store: Store, notes: list[str]) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    background = Background(MlflowTracker(store.uri, store.folder, notes.append), notes.append)
    background.put(lambda tracker: begin(tracker, "purged", "purged"), needed=True)
    wait_until(lambda: background.waiting == 0)
    found = store.client.get_experiment_by_name("purged")
    assert found is not None
    store.client.delete_experiment(found.experiment_id)
    purger = SqlAlchemyStore(store.uri, str(store.folder))  # as `mlflow gc` does
    for run in purger._get_deleted_runs():
        purger._hard_delete_run(run)
    purger._hard_delete_experiment(found.experiment_id)
    background.put(logging(1))
    background.put(lambda tracker: tracker.end("FINISHED"))
    assert background.close() == 0
    assert status(store.client, "purged") == {"purged": "FINISHED", "trial-1": "FINISHED"}
    assert notes == ["MLflow no longer has this search's runs: they are made anew, earlier ones by --resume"]


def test_a_store_of_mlflow_is_known_by_its_tables(store: Store) -> None:
    begin(MlflowTracker(store.uri, store.folder), "tables")
    assert owners(store.uri) == {"MLflow"}
