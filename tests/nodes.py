"""Nodes of Ray clusters, started as people start them, on free ports, and ended with all that they started."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PATIENCE = 120.0
TOKEN = "0123456789abcdef" * 4
UNWANTED = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    found = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return found


def clean_environment(home: Path) -> dict[str, str]:
    """This process's environment with a home of its own, and without what leads to other clusters."""
    kept = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    return {**kept, "HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}


def keep_token(home: Path, token: str = TOKEN) -> None:
    """Write a token where Ray looks for it; a cluster that finds it asks everybody for it."""
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text(token)


def start(stack: ExitStack, folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.Popen[bytes]:
    """Start a node, which stops with the stack."""
    command = [sys.executable, "-W", "ignore", "-m", "ray.scripts.scripts", "start", "--block", *arguments]
    folder.mkdir()
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen([*command, f"--temp-dir={folder}"], env=environment, stdout=log, stderr=log)
    stack.callback(stop, process)
    while not (folder / "ray_current_cluster").exists():
        assert process.poll() is None, (folder / "log.txt").read_text()
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a node with all of its processes."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait(PATIENCE)


@dataclass
class Cluster:
    """A head that runs jobs, asks for a token and has one processor, and further nodes."""

    folder: Path
    environment: dict[str, str]
    address: str
    jobs: str
    head: subprocess.Popen[bytes] | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    def begin(self, *arguments: str) -> None:
        """Start the head, at the same address each time."""
        agent, agents, clients = free_ports(3)
        (port, dashboard) = (url.rpartition(":")[2] for url in (self.address, self.jobs))
        ports = {"port": port, "dashboard-port": dashboard, "dashboard-agent-listen-port": agent,
                 "dashboard-agent-grpc-port": agents, "ray-client-server-port": clients}  # fmt: skip
        given = [f"--{name}={value}" for name, value in ports.items()]
        self.head = self._start("--head", "--num-cpus=1", *given, *arguments)

    def end(self) -> None:
        """Kill the head with all that runs on it."""
        assert self.head is not None
        stop(self.head)

    def join(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one more node."""
        agent, agents = free_ports(2)
        ports = f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agents}"
        return self._start(f"--address={self.address}", *ports, *arguments)

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        place = self.folder / f"{len(list(self.folder.iterdir()))}"
        process = start(self._stack, place, self.environment, *arguments)
        (place / "ray_current_cluster").unlink()  # else searches of tests beside this one would join it
        return process


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster in a new folder with a short path, as Ray's sockets have to lie below it."""
    folder.mkdir(exist_ok=True)
    port, dashboard = free_ports(2)
    environment = {**clean_environment(folder), "RAY_AUTH_MODE": "token"}
    keep_token(folder)
    made = Cluster(folder, environment, f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}")
    with made._stack:
        made.begin()
        yield made
