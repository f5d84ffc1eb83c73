"""Database URLs in every form that people write, databases that others hold, and databases that are somebody else's."""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from tiny import Ran, configure, make_project, run

from autocompress.config import SearchConfig, load_config
from autocompress.documents import Document, validate
from autocompress.errors import ConfigError, StorageAway, StudyError
from autocompress.search.files import work_folder
from autocompress.search.storage import check_tracking, open_storage, study_names
from autocompress.search.store import StudyStore
from autocompress.urls import owners, same_database, shown, under, without_passwords

MLFLOW = "CREATE TABLE experiments (a); CREATE TABLE runs (a); CREATE TABLE experiment_tags (a)"


def config(**changes: Any) -> SearchConfig:
    return validate(SearchConfig, Document("search.yaml", {"study": "s", "task": "task.py:f", **changes}))


def made(url: str, name: str = "s") -> StudyStore:
    return StudyStore.create(config(storage=url, study=name, tracking=None), ("size_bytes",), {})


def script(path: Path, statements: str) -> Path:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(statements)
    return path


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another connection that lets nobody read or write."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield
        database.execute("ROLLBACK")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, in a home folder."""
    folder = tmp_path / "home" / "here"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder.parent))
    return folder


# Forms


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("sqlite:///a.db", "here/a.db"),
        ("sqlite:///a.db?timeout=60", "here/a.db"),
        ("sqlite+pysqlite:///a.db", "here/a.db"),
        ("sqlite:///./deep/../a.db", "here/a.db"),
        ("sqlite:///~/a.db", "a.db"),
        ("sqlite:///~/a.db?timeout=60", "a.db"),
        ("sqlite:///{home}/b.db", "b.db"),
        ("sqlite:///file:a.db?uri=true", "here/a.db"),
        ("sqlite:///a b {c}.db", "here/a b {c}.db"),
    ],
)
def test_a_study_is_found_again_under_every_form_of_its_url(here: Path, url: str, place: str) -> None:
    (here / "deep").mkdir()
    url = url.replace("{home}", str(here.parent))
    found = config(storage=url).storage
    made(url).set("key", 1)
    assert (here.parent / place).is_file()
    assert work_folder(found) == (here.parent / place).parent / ".autocompress"
    for form in (url, found):
        assert study_names(form) == ["s"]
        assert StudyStore.open(form, "s").get("key") == 1
    assert {path.suffix for path in here.rglob("*") if path.is_file()} <= {".db"}


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite+pysqlite:///:memory:",
        "sqlite:///a?mode=memory&uri=true",
    ],
)
@pytest.mark.parametrize("key", ["storage", "tracking"])
def test_a_database_in_memory_is_refused(here: Path, url: str, key: str) -> None:
    with pytest.raises(ConfigError, match=r"in memory would keep nothing: name a file, such as sqlite:///"):
        config(**{key: url if key == "storage" else {"uri": url}})


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("a.db", "storage needs a URL, such as sqlite:///"),
        ("postgresql://host:port/a", "storage needs a URL, such as sqlite:///"),
        ("sqlite:///no/a.db?timeout=60", "folder no is not there: make it"),
        ("sqlite:///../here", "here is a folder: name a file in it"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused(here: Path, url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(storage=url)
    with pytest.raises(StudyError, match=words):
        study_names(url)


def test_a_search_with_a_query_in_its_url_is_listed_shown_and_resumed(tmp_path: Path) -> None:
    url = "sqlite:///a.db?timeout=30"
    make_project(tmp_path, storage=url)
    search = ("search", "search.yaml", "--executor", "inline", "--trials")
    assert run(tmp_path, *search, "1").code == 0
    assert [row["study"] for row in run(tmp_path, "list", "--json", "--storage", url).json()] == ["tiny"]
    assert run(tmp_path, "front", "tiny", "--json", "--storage", url).json()["front"]
    ended = run(tmp_path, *search, "2", "--resume", "--json")
    assert ended.json()["counts"]["completed"] == 2
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} <= {".autocompress", "__pycache__"}


def test_a_password_is_not_shown() -> None:
    assert shown("postgresql://me:secret@host/a") == "postgresql://me:***@host/a"
    assert shown("http://me:secret@host:5000") == "http://me:***@host:5000"
    assert shown("sqlite:///a.db?timeout=5&cache=shared") == "sqlite:///a.db?timeout=5&cache=shared"
    with pytest.raises(StudyError, match=r"storage unknown://me:\*\*\*@host/a: cannot be opened"):
        study_names("unknown://me:secret@host/a")


def test_a_config_is_shown_without_the_passwords_of_its_urls() -> None:
    tracking = {"uri": "http://me:secret@host:5000", "experiment": "e"}
    made = config(storage="postgresql://me:secret@host/a", tracking=tracking)
    found = made.shown()
    assert (found["storage"], found["tracking"]["uri"]) == ("postgresql://me:***@host/a", "http://me:***@host:5000")
    assert found.keys() == made.model_dump().keys()
    assert config(tracking=None).shown()["tracking"] is None


def test_a_relative_file_is_looked_for_in_a_folder() -> None:
    assert under("sqlite:///a.db?timeout=5", Path("/b")) == "sqlite:////b/a.db?timeout=5"
    assert under("sqlite:////c/a.db", Path("/b")) == "sqlite:////c/a.db"


# Locks


@pytest.mark.parametrize(("url", "seconds"), [("sqlite:///a.db", 60), ("sqlite:///a.db?timeout=7", 7)])
def test_locks_are_waited_for(here: Path, url: str, seconds: int) -> None:
    storage = open_storage(url, make=True)
    assert storage is not None
    with storage.engine.connect() as connection:
        assert connection.execute(text("PRAGMA busy_timeout")).scalar() == seconds * 1000


def one_line(ran: Ran) -> str:
    assert ran.code == 2, ran.err
    assert ran.out == ""
    (line,) = ran.err.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_lock_that_stays_is_one_line_for_every_command(here: Path) -> None:
    url = "sqlite:///a.db?timeout=0.05"
    made(url)
    with locked(here / "a.db"):
        for command in ("list", "front s", "show s 0", "export s --out x"):
            line = one_line(run(here, *command.split(), "--storage", url))
            assert "database is locked: another process holds it: end that, or wait longer" in line
    assert study_names(url) == ["s"]


def test_a_study_in_use_says_of_a_lock_that_a_search_can_be_resumed_and_goes_on_after_it(here: Path) -> None:
    store = made("sqlite:///a.db?timeout=0.05")
    with locked(here / "a.db"), pytest.raises(StorageAway, match=r"cannot be used: database is locked.*--resume"):
        store.set("key", 1)
    store.set("key", 2)
    assert StudyStore.open("sqlite:///a.db", "s").get("key") == 2


def test_a_database_that_is_full_or_may_not_be_written_says_so(here: Path) -> None:
    store = made("sqlite:///a.db")
    for pragma, words in (
        ("max_page_count = 1", r"database or disk is full: make room, and .* --resume"),
        ("query_only = 1", "readonly database: give write permission"),
    ):
        with pytest.raises(StudyError, match=words):
            refused("sqlite:///a.db", pragma)
    store.set("key", 1)


def refused(url: str, pragma: str) -> None:
    """Write through a connection that is set up so."""
    storage = open_storage(url)
    assert storage is not None
    with storage.engine.begin() as connection:
        connection.execute(text(f"PRAGMA {pragma}"))
        connection.execute(text("CREATE TABLE more (a)"))


def test_a_damaged_database_is_one_line(here: Path) -> None:
    made("sqlite:///a.db")
    data = (here / "a.db").read_bytes()
    (here / "a.db").write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))
    assert "storage sqlite:///a.db: cannot be" in one_line(run(here, "list", "--storage", "sqlite:///a.db"))


# Whose database it is

COMMANDS = ("list", "front s", "show s 0", "export s --out x", "report s --out x", "doctor --json", "ui", "list --json")


@pytest.mark.parametrize("command", COMMANDS)
def test_reading_makes_no_database(here: Path, command: str) -> None:
    (here / "empty.db").touch()
    before = digests(here)
    for url in ("sqlite:///none.db", "sqlite:///empty.db"):
        run(here, *command.split(), "--storage", url)
        assert digests(here) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_reading_leaves_the_databases_of_others_alone_and_says_whose_they_are(here: Path, command: str) -> None:
    script(here / "mlflow.db", MLFLOW)
    script(here / "notes.db", "CREATE TABLE notes (a)")
    before = digests(here)
    for url, whose in (("sqlite:///mlflow.db", "it holds MLflow's tables"), ("sqlite:///notes.db", "something else's")):
        ran = run(here, *command.split(), "--storage", url)
        assert ran.code == 2
        assert whose in ran.out + ran.err
        assert digests(here) == before


def test_a_search_writes_into_no_database_of_others(tmp_path: Path) -> None:
    make_project(tmp_path)
    made(f"sqlite:///{tmp_path}/studies.db")
    script(tmp_path / "mlflow.db", MLFLOW)
    script(tmp_path / "notes.db", "CREATE TABLE notes (a)")
    before = digests(tmp_path)
    for changes, words in (
        ({"storage": "sqlite:///mlflow.db"}, "it holds MLflow's tables and no studies"),
        ({"storage": "sqlite:///notes.db"}, "it holds something else's tables"),
        ({"tracking": {"uri": "sqlite:///studies.db"}}, "studies.db: holds the studies of Optuna: give MLflow"),
        ({"tracking": {"uri": "sqlite:///notes.db"}}, "notes.db: holds tables of something else: give MLflow"),
    ):
        configure(tmp_path / "search.yaml", **changes)
        ended = run(tmp_path, "search", "search.yaml", "--executor", "inline")
        assert ended.code == 2
        assert words in ended.err
    after = {name: digest for name, digest in digests_of_files(tmp_path).items() if name in before}
    assert {**before, "search.yaml": ""} == {**after, "search.yaml": ""}
    assert not (tmp_path / "autocompress.db").exists()


def digests_of_files(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()}


def test_the_interface_opens_a_tracking_store_that_is_there_and_no_other(here: Path) -> None:
    made("sqlite:///studies.db")
    (here / "empty.db").touch()
    for uri, words in (
        ("sqlite:///studies.db", "holds the studies of Optuna"),
        ("sqlite:///none.db", "no tracking store at"),
        ("sqlite:///empty.db", "no tracking store at"),
        ("nonsense", "needs a URL"),
    ):
        assert words in one_line(run(here, "ui", "--uri", uri))
    check_tracking(f"sqlite:///{script(here / 'mlflow.db', MLFLOW)}", there=True)
    assert "http://me:***@host:1" in run(here, "ui", "--uri", "http://me:secret@host:1").out
    assert not (here / "none.db").exists()


def test_a_database_that_holds_both_is_read(here: Path) -> None:
    made("sqlite:///a.db")
    script(here / "a.db", MLFLOW)
    assert owners("sqlite:///a.db") == {"Optuna", "MLflow"}
    assert study_names("sqlite:///a.db") == ["s"]


@pytest.mark.parametrize(
    ("storage", "tracking"),
    [
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("sqlite:///a.db?timeout=60", "sqlite+pysqlite:///./a.db"),
        ("sqlite:///~/here/a.db", "sqlite:///a.db"),
        ("sqlite:///link.db", "sqlite:///there.db"),
        ("sqlite:///hard.db", "sqlite:///there.db"),
        ("postgresql://me:x@Host/a", "postgresql+psycopg2://you:y@host:5432/a"),
    ],
)
def test_one_database_for_both_is_refused_however_it_is_written(here: Path, storage: str, tracking: str) -> None:
    (here / "there.db").touch()
    (here / "link.db").symlink_to(here / "there.db")
    (here / "hard.db").hardlink_to(here / "there.db")
    with pytest.raises(ConfigError, match=r"storage and tracking.uri mean the same database .*: give each one"):
        config(storage=storage, tracking={"uri": tracking})


def test_two_databases_are_two() -> None:
    assert not same_database("sqlite:///a.db", "sqlite:///b.db")
    assert not same_database("postgresql://h/a", "postgresql://h/b")
    assert not same_database("postgresql://h/a", "sqlite:///a")
    assert not same_database("postgresql://h/a?options=-csearch_path=x", "postgresql://h/a?options=-csearch_path=y")
    assert config(tracking={"uri": "http://127.0.0.1:5000"}).tracking is not None
    with pytest.raises(ConfigError, match="mean the same database"):
        config(storage="sqlite:///mlflow.db")  # where MLflow's is, unless the config says otherwise


# Names that nobody wrote


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("my nets", "my-nets"),
        ("_exp", "exp"),
        ("..exp", "exp"),
        ("-v2", "v2"),
        ("Vögel été", "Vogel-ete"),
        ("a" * 100, "a" * 100),
    ],
)
def test_a_folder_s_name_becomes_a_study_s(tmp_path: Path, folder: str, name: str) -> None:
    assert in_folder(tmp_path, folder) == name


def in_folder(parent: Path, name: str) -> str:
    (parent / name).mkdir()
    (parent / name / "search.yaml").write_text("task: task.py:f\n")
    return load_config(parent / name / "search.yaml").study


@pytest.mark.parametrize("folders", [("модель", "данные"), ("модель v2", "данные v2"), ("___", "..."), ("模型", "🦊")])
def test_folders_whose_letters_no_study_can_have_are_kept_apart(tmp_path: Path, folders: tuple[str, str]) -> None:
    names = {in_folder(tmp_path, folder) for folder in folders}
    assert len(names) == 2
    assert {name[-9] for name in names} == {"-"}
    assert all(int(name[-8:], 16) >= 0 for name in names)


def test_a_very_long_folder_makes_a_name_that_is_short_enough(tmp_path: Path) -> None:
    first, second = in_folder(tmp_path, "a" * 120 + "1"), in_folder(tmp_path, "a" * 120 + "2")
    assert first != second
    assert len(first) == len(second) == 99


def test_a_text_of_others_is_told_without_passwords() -> None:
    text = (
        "request to http://ann:secret@here: no, http://ann:secret@here:5000/api (from http://here/a:b@c) and a://:pw@b"
    )
    assert without_passwords(text) == (
        "request to http://ann:***@here: no, http://ann:***@here:5000/api (from http://here/a:b@c) and a://:***@b"
    )
