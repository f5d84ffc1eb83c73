"""The services of compose.yaml as processes on loopback, without containers: what `make stack` runs.

Commands, variables, secrets and health checks are read from compose.yaml and .env, so that they are the same. What a
container would give a service is given here by a folder: its data, its secrets, its home. Postgres' image makes its
databases by itself, which docker/postgres.py does here.

python docker/stack.py: starts everything, prints where it is, and ends all of it on Ctrl-C or SIGTERM.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import postgres
import psutil
import yaml
from make_secrets import make_secrets

HERE = Path(__file__).parent
HOSTS = ("BIND", "POSTGRES_HOST", "MLFLOW_HOST", "RAY_HOST", "PUBLISH")
PORTS = ("POSTGRES_PORT", "MLFLOW_PORT", "RAY_PORT", "RAY_JOBS_PORT", "SERVER_PORT")
FOLDERS = {"SECRETS": "secrets", "POSTGRES_DATA": "postgres/data", "ARTIFACTS": "artifacts", "SEARCHES": "searches"}
MARK = "AUTOCOMPRESS_STACK"  # in the environment of all that a stack started: its folder
# Of the caller's environment, what programs need to run; nothing of its storages, tokens and clusters.
KEPT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
STARTS_NODE = ["ray", "start"]
PATIENCE_S, GRACE_S, LOOK_S = 180.0, 40.0, 0.2


def read_variables() -> dict[str, str]:
    """What .env says."""
    lines = (HERE / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def read_services(variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The services of compose.yaml, filled in as compose does."""

    def fill(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables[match[1]]

    text = re.sub(r"\$\$|\$\{([A-Z_]+)\}", fill, (HERE / "compose.yaml").read_text())
    services: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    return services


@dataclass
class Process:
    """A service that runs: how it was started, and where it says what."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    check: Sequence[str]
    environment: Mapping[str, str]
    node: bool = False  # of Ray
    since: float = field(default_factory=time.monotonic)


@dataclass
class Stack:
    """A stack in a folder, which is made for it and goes with it."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="stack-", dir="/tmp")))
    processes: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.chmod(0o711)  # Postgres, as another user, reaches what is its own
        ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        folders = {name: str(self.folder / place) for name, place in FOLDERS.items()}
        self.variables = {**read_variables(), **dict.fromkeys(HOSTS, "127.0.0.1"), **ports, **folders}
        make_secrets(self.secrets)
        for name in ("artifacts", "searches", "logs", "home"):
            (self.folder / name).mkdir(mode=0o700)

    @property
    def secrets(self) -> Path:
        """The folder of its secrets."""
        return self.folder / "secrets"

    @property
    def url(self) -> str:
        """Where its first server is."""
        return f"http://127.0.0.1:{self.variables['SERVER_PORT']}"

    @property
    def tracking(self) -> str:
        """Where its MLflow is."""
        return f"http://127.0.0.1:{self.variables['MLFLOW_PORT']}"

    @property
    def token(self) -> Path:
        """The file of the first token of its service."""
        return self.folder / "searches" / "admin.token"

    def up(self) -> None:
        """Start every service, each once those are healthy that it depends on, and several of one after another."""
        services = read_services(self.variables)
        left = {name: int(service.get("deploy", {}).get("replicas", 1)) for name, service in services.items()}
        coming: list[Process] = []
        while coming or any(left.values()):
            busy = {process.name for process in coming}
            done = {name for name, count in left.items() if count == 0} - busy
            for name, service in services.items():
                if left[name] and name not in busy and set(service.get("depends_on", ())) <= done:
                    coming.append(self.start(name))
                    left[name] -= 1
            coming = [process for process in coming if not self.came(process)]
            time.sleep(LOOK_S)

    def start(self, name: str, **variables: str) -> Process:
        """Start a service, or another one of it with other variables."""
        service = read_services({**self.variables, **variables})[name]
        log = self.folder / "logs" / f"{name}-{len(self.processes)}.log"
        environment = self._environment(service)
        if service["image"].startswith("postgres:"):
            popen = self._postgres(service, environment, log)
        else:
            command = natively(service["command"])
            with log.open("ab") as file:
                popen = subprocess.Popen(
                    command,
                    cwd=self.folder / "home",
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
        node = service["command"][:2] == STARTS_NODE
        process = Process(name, popen, log, service["healthcheck"]["test"], environment, node)
        self.processes.append(process)
        return process

    def wait(self, process: Process) -> None:
        """Wait until a service is healthy. Raises SystemExit as `came` does."""
        while not self.came(process):
            time.sleep(LOOK_S)

    def came(self, process: Process) -> bool:
        """Whether a service is healthy, by its own check. Raises SystemExit where it ended, or takes too long."""
        if not healthy(process):
            if process.popen.poll() is not None or time.monotonic() > process.since + PATIENCE_S:
                log = process.log.read_text(errors="replace")[-3000:]
                raise SystemExit(f"{process.name}: it does not become healthy; the end of {process.log}:\n{log}")
            return False
        # What tells other programs of this machine of a Ray cluster that they might join.
        (self.folder / "ray" / "ray_current_cluster").unlink(missing_ok=True)
        return True

    def down(self) -> None:
        """End all that was started here, the last first, and nothing else; remove the folder."""
        for process in reversed(self.processes):
            end(process.popen, signal.SIGINT if process.name == "postgres" else signal.SIGTERM)
        for left in self.left():
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        psutil.wait_procs(self.left(), timeout=GRACE_S)
        shutil.rmtree(self.folder, ignore_errors=True)

    def left(self) -> list[psutil.Process]:
        """What still runs of all that was started here, whoever its parent is by now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == str(self.folder):
                    found.append(process)
        return found

    def _environment(self, service: dict[str, Any]) -> dict[str, str]:
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        programs = [str(Path(sys.executable).parent), str(programs_of_postgres()), kept.get("PATH", "")]
        own = {"HOME": str(self.folder / "home"), "RAY_TMPDIR": str(self.folder), MARK: str(self.folder)}
        given = {**service.get("environment", {}), **own, "PATH": os.pathsep.join(programs)}
        return {**kept, **{name: str(value) for name, value in given.items()}}

    def _postgres(self, service: dict[str, Any], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
        """What Postgres' image does: make the cluster and its databases where there is none, then serve."""
        data, fresh = Path(self.variables["POSTGRES_DATA"]), False
        if not data.exists():
            data.parent.mkdir(mode=0o711, exist_ok=True)
            password = Path(environment["POSTGRES_PASSWORD_FILE"]).read_text()
            postgres.initialize(data, password)
            fresh = True
        popen = postgres.start(data, log, service["command"][1:], environment)
        process = Process("postgres", popen, log, service["healthcheck"]["test"], environment)
        if fresh:
            self.wait(process)
            postgres.run_script(HERE / "databases.sql", int(self.variables["POSTGRES_PORT"]), password, environment)
        return popen


def natively(command: Sequence[str]) -> list[str]:
    """A command as this machine needs it: Ray's nodes share its ports, of which each takes others."""
    words = [str(word) for word in command]
    return [*words, f"--dashboard-agent-listen-port={free_ports(1)[0]}"] if words[:2] == STARTS_NODE else words


def healthy(process: Process) -> bool:
    """Whether a service's own check says so; a node of Ray also says itself that it is up, as others are here too."""
    if process.node and "Ray runtime started" not in process.log.read_text(errors="replace"):
        return False
    kind, *words = process.check
    command = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.run(command, env=process.environment, check=False, **quiet).returncode == 0


def end(popen: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """End a process by a signal, and by SIGKILL where that is not enough."""
    if popen.poll() is None:
        popen.send_signal(number)
        try:
            popen.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()


def free_ports(count: int) -> list[int]:
    """Ports of loopback on which nothing listens."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@cache
def programs_of_postgres() -> Path:
    """The folder of Postgres' programs."""
    found = postgres.program("postgres")
    if found is None:
        raise SystemExit("postgres: not installed: install Postgres (Debian: apt install postgresql)")
    return found.resolve().parent


@contextlib.contextmanager
def running() -> Iterator[Stack]:
    """A stack that is up, and down after the block."""
    programs_of_postgres()
    stack = Stack()
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


def main() -> None:
    """Run a stack until a signal comes."""

    def stop(number: int, _: object) -> None:
        for later in (signal.SIGINT, signal.SIGTERM):
            signal.signal(later, signal.SIG_IGN)  # ending is not to be cut short
        raise SystemExit(0)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    print("starting Postgres, MLflow, Ray and the service; Ctrl-C ends them", file=sys.stderr, flush=True)
    with running() as stack:
        print(f"autocompress on {stack.url}; an admin's token is in {stack.token}")
        print(f"MLflow on {stack.tracking}; its user is admin, the password is in {stack.secrets / 'mlflow_password'}")
        print(f"logs are in {stack.folder / 'logs'}", flush=True)
        while all(process.popen.poll() is None for process in stack.processes):
            time.sleep(1.0)
        ended = next(process for process in stack.processes if process.popen.poll() is not None)
        raise SystemExit(f"{ended.name} ended: see {ended.log}, of which the end is:\n{ended.log.read_text()[-2000:]}")


if __name__ == "__main__":
    main()
