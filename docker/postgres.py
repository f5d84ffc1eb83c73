"""Postgres as processes of one's own, without a container: in a folder, on loopback, with passwords."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DEBIAN = Path("/usr/lib/postgresql")
ACCOUNTS = ("postgres", "nobody")  # one of them runs it for root, as whom Postgres does not run


def program(name: str) -> Path | None:
    """Where a program of Postgres is: on the path, or where Debian puts it; the newest."""
    found = shutil.which(name)
    if found:
        return Path(found)
    versions = [path for path in DEBIAN.glob(f"*/bin/{name}") if path.parts[-3].isdigit()]
    return max(versions, key=lambda path: int(path.parts[-3]), default=None)


def installed() -> bool:
    """Whether Postgres is here."""
    return None not in (program("postgres"), program("initdb"))


def account() -> dict[str, Any]:
    """As whom Postgres runs, as arguments of subprocess."""
    if os.geteuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = next(known[name] for name in ACCOUNTS if name in known)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def give(path: Path) -> None:
    """Let Postgres own a file or folder."""
    who = account()
    if who:
        os.chown(path, who["user"], who["group"])


def initialize(data: Path, password: str) -> None:
    """Make a cluster in a new folder, whose parent Postgres may reach, with a superuser `postgres`."""
    data.mkdir(mode=0o700, parents=True)
    given = data.with_name(f"{data.name}.password")
    with os.fdopen(os.open(given, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(password)
    give(data)
    give(given)
    how = ["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
    try:
        _run("initdb", [f"--pgdata={data}", f"--pwfile={given}", *how])
    finally:
        given.unlink()


def start(
    data: Path, log: Path, options: Sequence[str], environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a server on loopback, with options of `postgres`; SIGINT ends it and whoever is connected."""
    found = program("postgres")
    assert found is not None
    here = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
    with log.open("ab") as file:
        return subprocess.Popen(
            [str(found), "-D", str(data), *here, *options],
            cwd=data,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            **account(),
        )


def run_script(script: Path, port: int, password: str, environment: Mapping[str, str]) -> None:
    """Carry out a script of SQL as the superuser."""
    where = ["--host=127.0.0.1", f"--port={port}", "--username=postgres", "--no-psqlrc", "--quiet"]
    how = ["--set=ON_ERROR_STOP=1", f"--file={script}"]
    _run("psql", [*where, *how], {**os.environ, **environment, "PGPASSWORD": password}, {})


def _run(
    name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None, who: dict[str, Any] | None = None
) -> None:
    found = program(name)
    if found is None:
        raise SystemExit(f"{name}: not installed: install Postgres (Debian: apt install postgresql)")
    done = subprocess.run(
        [str(found), *arguments],
        cwd="/",
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **(account() if who is None else who),
    )
    if done.returncode != 0:
        raise SystemExit(f"{name}: {done.stderr.strip() or done.stdout.strip()}")
