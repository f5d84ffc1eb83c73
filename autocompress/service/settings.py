"""What a server is told when it starts."""

import socket
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..urls import is_server, sqlite_file, without_passwords
from .quotas import Quota


@dataclass(frozen=True)
class Settings:
    """Where a server keeps things, where it listens and how it runs searches.

    url and mlflow_url are how people reach its page and MLflow's, for links, where that is not by host and port, or not
    by the address that the server itself has for MLflow.

    folder holds what searches are made of, write and export: servers that share a database share it too. slots is how
    many controllers run here at once; controllers says as what: a process of this machine each, or a job of the cluster
    `ray`, whose head has the folder too. lease_s is after how long without a sign of life another server takes over.
    quota is what people may have of whom nothing else is set. rate is requests a second by one token, burst how many
    may come at once; failures is wrong tokens a minute from one address, streams how many streams of events a person
    has open. Exports go that nobody asked for in exports_days, and the oldest while all take more than exports_bytes.
    """

    storage: str
    folder: Path
    tracking: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    url: str | None = None
    mlflow_url: str | None = None
    ray: str = "auto"
    executor: str = "ray"
    controllers: Literal["process", "ray"] = "process"
    slots: int = 2
    lease_s: float = 15.0
    poll_s: float = 0.5
    grace_s: float = 20.0
    rate: float = 100.0
    burst: int = 200
    failures: int = 30
    streams: int = 250
    exports_days: float = 30.0
    exports_bytes: int = 20_000_000_000
    quota: Quota = field(default_factory=Quota)
    name: str = field(default_factory=lambda: f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}")

    @property
    def address(self) -> str | None:
        """How people reach the page; None where that is not known."""
        if self.url or self.port == 0 or self.host in ("0.0.0.0", "::"):
            return self.url
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    @property
    def mlflow(self) -> str | None:
        """How people reach MLflow's page; None where there is none that is known."""
        return self.mlflow_url or (without_passwords(self.tracking) if is_server(self.tracking) else None)

    @property
    def token_file(self) -> Path:
        """Where the first token is, which is an admin's."""
        return self.folder / "admin.token"


def default_folder(storage: str) -> Path:
    """The folder `.autocompress/service` beside a SQLite file, or in the current folder for other storages."""
    path = sqlite_file(storage)
    return (Path.cwd() if path is None else path.resolve().parent) / ".autocompress" / "service"
