"""A Ray cluster: which one to join, starting one of one's own, and noticing that it is gone."""

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ..config import Target
from ..errors import ClusterAway, ExecutorError
from .base import Note
from .rooms import Room
from .shipping import stage_code

KNOCK_SECONDS, LOOK_SECONDS = 10.0, 1.0
PATIENCE_SECONDS = 10.0  # Ray itself rides out shorter outages of a cluster that is managed elsewhere
RENEWALS = 3  # in a row, without anything finished in between
TOKEN_MODE = "RAY_AUTH_MODE"
# What a worker prints is kept in Ray's session folder: at most twice this many bytes of it, a worker and a stream.
PRINTED_BYTES = 10_000_000


class Cluster:
    """The cluster that this process is connected to: one that was started to be shared, or a private one.

    address: auto joins what RAY_ADDRESS names or `ray start` started on this machine, else starts a private cluster
    with `workers` processors; local always starts one. Raises ExecutorError where neither can be had, or where no node
    will ever have a resource, or the share of a GPU: tasks would wait for ever.
    """

    def __init__(
        self,
        address: str,
        workers: int,
        code: Path | None,
        target: Target,
        note: Note,
        image: str | None = None,
        gpus: float = 0.0,
    ) -> None:
        self.ray, resource = _imported(), target.resource
        self.joined = _find(address)
        if self.joined is None and resource is not None:
            raise ExecutorError(
                f"target.resource: {resource!r}: this search's own cluster has no such resource: join one whose nodes "
                "have it by ray.address, or leave target.resource out"
            )
        if self.ray.is_initialized():
            raise ExecutorError("this program is connected to Ray already: call ray.shutdown() first")
        self.room = Room()
        self._workers, self._note, self._renewals = workers, note, 0
        self._code = None if code is None or image else stage_code(code)
        self._image = image
        self._token_mode = os.environ.get(TOKEN_MODE)
        try:
            self._connect()
        except BaseException:
            self.close()
            raise
        if self.joined is not None and address == "auto":
            note(f"ray.address: auto: joined the cluster at {self.joined}")
        if resource is not None and resource not in self.ray.cluster_resources():
            note(f"target.resource: no node of the cluster has {resource!r} yet: measurements wait for one")
        self._check_gpus(gpus)

    def _check_gpus(self, gpus: float) -> None:
        """Raise ExecutorError, or say it, where Ray finds no accelerator for those who ask for one."""
        if self.ray.cluster_resources().get("GPU", 0.0) >= gpus:
            return
        if self.joined is None:
            self.close()
            raise ExecutorError(
                f"train.device or target.runtime is on CUDA, and Ray finds no {gpus:g} GPU on this machine: join a "
                "cluster that has one by ray.address, or name the processor"
            )
        self._note(f"no node of the cluster has {gpus:g} GPU yet: what trains or is measured on CUDA waits for one")

    def _connect(self) -> None:
        common = {
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "runtime_env": environment(self._code, self._image),
        }
        try:
            if self.joined is None:
                local = {"address": "local", "num_cpus": self._workers, "include_dashboard": False}
                self.ray.init(**local, _temp_dir=str(self.room.folder), **common)
            else:
                _use_token(self.joined, self._token_mode)
                self.ray.init(address=self.joined, **common)
        except ExecutorError:
            raise
        except Exception as error:
            which = "started" if self.joined is None else f"reached at {self.joined}"
            away = ExecutorError if self.joined is None else ClusterAway
            raise away(f"Ray cannot be {which}: {str(error).splitlines()[0]}") from error
        self._ends = self._find_ends()
        self._looked = time.monotonic()
        self._silent_since: float | None = None

    def _find_ends(self) -> list[tuple[str, int]]:
        """Where the cluster's head and this machine's node listen."""
        if self.joined is not None and self.joined.startswith("ray://"):
            return [_split(self.joined)]
        context = self.ray.get_runtime_context()
        here = context.get_node_id()
        nodes = [(n["NodeManagerAddress"], n["NodeManagerPort"]) for n in self.ray.nodes() if n["NodeID"] == here]
        return [_split(context.gcs_address), *nodes]

    def silent(self) -> bool:
        """Whether its head or this machine's node does not answer now."""
        self._looked = time.monotonic()
        if all(_listens(host, port, LOOK_SECONDS) for host, port in self._ends):
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = self._looked
        return self._silent_since is not None

    def lost(self) -> bool:
        """Whether it is gone: silent, and for long where it may come back; looks once a second."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self.silent()
        if self._silent_since is None:
            return False
        return self.joined is None or time.monotonic() - self._silent_since > PATIENCE_SECONDS

    def settled(self) -> bool:
        """Whether it answers, once it does or was waited for in vain."""
        while self.silent():
            if self.lost():
                return False
            time.sleep(LOOK_SECONDS)
        return True

    def proved(self) -> None:
        """Something was finished on it."""
        self._renewals = 0

    def renew(self) -> None:
        """Start a private cluster anew that was lost. ExecutorError where it was joined, or is lost too often."""
        if self.joined is not None:
            raise ClusterAway(
                f"the Ray cluster at {self.joined} was lost: start it again, then go on with --resume; "
                "`ray: {address: local}` needs no other cluster"
            )
        if self._renewals == RENEWALS:
            raise ExecutorError(
                f"the Ray cluster of this search was lost {RENEWALS + 1} times in a row, with nothing finished in "
                "between: is the machine out of memory? Go on with --resume, and with fewer --workers"
            )
        self._renewals += 1
        self._note("the Ray cluster of this search was lost: starting it anew")
        terminated = signal.getsignal(signal.SIGTERM)
        self.ray.shutdown()
        try:
            self._connect()
        finally:  # Ray takes SIGTERM over whenever it starts
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, terminated)

    def close(self) -> None:
        """Disconnect; ends a private cluster. May be called again."""
        self.ray.shutdown()
        self.room.close()
        _set_token_mode(self._token_mode)


def _imported() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    import ray._private.worker

    # What Ray prints of its own accord when workers or nodes are lost; the search says that itself, in one line.
    ray._private.worker._worker_logs_enabled = False
    return ray


def environment(code: Path | None, image: str | None = None) -> dict[str, Any]:
    """Ray's runtime environment: one thread a worker, an end to what it may print, and the user's code or an image.

    A py_module, not a working_dir, so that workers stay in the folder that the user started from. Made anew for each
    cluster, since Ray writes into it where in that cluster the code lies. Ray takes a module or an image, not both.
    """
    printed = {"RAY_ROTATION_MAX_BYTES": str(PRINTED_BYTES), "RAY_ROTATION_BACKUP_COUNT": "1"}
    made: dict[str, Any] = {"env_vars": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **printed}}
    if image is not None:
        made["image_uri"] = image
    elif code is not None:
        made["py_modules"] = [str(code)]
    return made


def _find(address: str) -> str | None:
    """The cluster to join; None to start a private one. Raises ExecutorError where nothing listens at an address."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or _shared_here() or "local"
    if address == "local":
        return None
    _knock(address)
    return address


def _shared_here() -> str | None:
    """The newest cluster that this user started on this machine by `ray start`, if it still answers.

    `ray start` writes the cluster's address into its temporary folder, ray.init does not. So of the nodes that run here
    those are shared whose own folder names their cluster; the others are private to a process, and end with it.
    """
    import psutil  # type: ignore[import-untyped,unused-ignore]  # Ray brings its own

    found = []
    for process in psutil.process_iter(["name", "cmdline", "create_time", "uids"]):
        if process.info["name"] != "raylet" or not process.info["uids"] or process.info["uids"].real != os.getuid():
            continue
        words = " ".join(process.info["cmdline"] or [])
        node = re.search(r"--raylet_socket_name=(\S+)", words)
        head = re.search(r"--gcs-address=(\S+)", words)
        if node and head and _read(Path(node[1]).parents[2] / "ray_current_cluster") == head[1]:
            found.append((process.info["create_time"], head[1]))
    answering = (address for _, address in sorted(found, reverse=True) if _listens(*_split(address), LOOK_SECONDS))
    return next(answering, None)


def _read(path: Path) -> str | None:
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return None


def _split(address: str) -> tuple[str, int]:
    """Host and port of an address that was knocked at, or comes from Ray."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    return host.strip("[]"), int(port)


def _listens(host: str, port: int, seconds: float) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), seconds):
        return True
    return False


def _knock(address: str) -> None:
    """Raise ExecutorError unless something listens there: Ray itself would keep trying for minutes."""
    from ray.util import get_node_ip_address

    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ExecutorError(f"ray.address: {address!r}: write auto, local or HOST:PORT")
    # Ray takes the loopback interface to mean this node's own address.
    own = str(get_node_ip_address())  # type: ignore[no-untyped-call]
    hosts = [host, own] if host in ("127.0.0.1", "localhost", "[::1]") else [host]
    if not any(_listens(name.strip("[]"), int(port), KNOCK_SECONDS) for name in hosts):
        raise ClusterAway(f"ray.address: nothing listens at {address}: start a cluster there, or write auto or local")


def _use_token(address: str, mode: str | None) -> None:
    """Give a cluster the token that it wants; Ray itself does so only where it found the cluster by itself.

    mode: what the user set RAY_AUTH_MODE to, which is kept to. Raises ExecutorError without the right token.
    """
    if address.startswith("ray://"):
        return
    _set_token_mode(mode)
    if _admits(address, mode or "disabled"):
        return
    known = _has_token()
    if mode is None and known and _admits(address, "token"):
        _set_token_mode("token")
        return
    if mode not in (None, "token"):
        fix = f"unset {TOKEN_MODE}, which is {mode!r}"
    else:
        fix = (
            f"{'it is not the one that is known here: ' if known else ''}set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to "
            "a file with it, or copy the file ~/.ray/auth_token from the machine where the cluster was started"
        )
    raise ExecutorError(f"ray.address: the cluster at {address} wants a token: {fix}")


_PROBE = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"


def _admits(address: str, mode: str) -> bool:
    """Whether a cluster lets somebody in. Asked in a process of its own: Ray ends one that has no token to give."""
    from ray._private.services import canonicalize_bootstrap_address

    command = [sys.executable, "-W", "ignore", "-c", _PROBE, canonicalize_bootstrap_address(address) or address]
    done = subprocess.run(
        command, env={**os.environ, TOKEN_MODE: mode}, capture_output=True, text=True, timeout=60, check=False
    )
    return "AuthenticationError" not in done.stderr and "authentication_token_loader" not in done.stderr


def _has_token() -> bool:
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError

    try:
        AuthenticationTokenLoader.instance().reset_cache()
        return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))
    except AuthenticationError:  # RAY_AUTH_TOKEN_PATH names no file
        return False


def _set_token_mode(mode: str | None) -> None:
    """Set, or unset, RAY_AUTH_MODE for this process and those it starts."""
    from ray._raylet import Config  # type: ignore[attr-defined]

    if mode is None:
        os.environ.pop(TOKEN_MODE, None)
    else:
        os.environ[TOKEN_MODE] = mode
    Config.initialize("")  # Ray reads the environment once
