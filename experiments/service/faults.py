"""What becomes of searches when parts of the service are killed at random? Writes faults.csv beside this file.

Two servers on one database run searches on a Ray cluster of a head and a node, and log to an MLflow server: real ones
(one layer, trials as Ray tasks) and ones by tests/pretender.py, which tells trials that nobody ran and
notices a second one beside it. Every few seconds a server, a controller, the Ray node, the MLflow server or, where the
database is one, the Postgres is killed (that by SIGQUIT, at which it stops at once, as at a crash; all others by
SIGKILL), and, but for controllers, started again at once. In the end every search must have finished, every trial been
told once, by one controller at a time, and nothing may run on.

Usage, from a checkout: python experiments/service/faults.py [--seed 0] [--kills 20] [--minutes 8]
[--controllers ray|process] [--postgres]: a row for every seed and kind, which ends after so many kills or minutes.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pandas as pd

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "tests"), str(HERE.parents[1] / "docker")]
from databases import running_postgres  # type: ignore[import-not-found]  # noqa: E402
from nodes import Cluster, cluster, free_ports, stop  # type: ignore[import-not-found]  # noqa: E402
from pursued import ran, submit  # type: ignore[import-not-found]  # noqa: E402
from served import Server, controllers, served, until  # type: ignore[import-not-found]  # noqa: E402

VICTIMS = {"server": 4, "controller": 4, "Ray node": 1, "MLflow": 1}  # how often each of ten
ACTIVE, REAL_EVERY, TRIALS = 4, 10, 20
PAUSE_S = (0.5, 3.0)
DRAIN_S = 300.0
MOST_STRIKES = 3  # at one search's controllers


@dataclass
class Service:
    """All parts, and what was done to them."""

    folder: Path
    cluster: Cluster
    kind: str
    chance: random.Random
    stack: contextlib.ExitStack
    postgres: Any = None
    servers: list[Server] = field(default_factory=list)
    studies: list[str] = field(default_factory=list)
    killed: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)

    def begin(self) -> None:
        """Start all parts."""
        (self.port,) = free_ports(1)
        self.serve_mlflow()
        self.node = self.cluster.join("--num-cpus=1")
        self.storage = None if self.postgres is None else self.postgres.make()
        self.victims = {**VICTIMS, **({} if self.postgres is None else {"Postgres": 2})}
        self.servers = [self.serve(), self.serve()]

    def serve(self) -> Server:
        """One more server."""
        given = {"ray": self.cluster.address, "controllers": self.kind, "executor": "ray", "tracking": self.uri}
        given |= {} if self.storage is None else {"storage": self.storage}
        return self.stack.enter_context(served(self.folder, 2, self.cluster.environment, lease_s=3.0, **given))

    @property
    def uri(self) -> str:
        """Where MLflow is."""
        return f"http://127.0.0.1:{self.port}"

    def serve_mlflow(self) -> None:
        """Start the MLflow server, at the same address each time."""
        stores = ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        stores += ["--artifacts-destination", f"{self.folder}/artifacts"]
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1", *stores]
        with (self.folder / "mlflow.log").open("a") as log:
            self.mlflow = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.stack.callback(end_session, self.mlflow)
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                if httpx2.get(f"{self.uri}/health").status_code == 200:
                    return
            assert time.monotonic() < deadline, (self.folder / "mlflow.log").read_text()
            time.sleep(0.2)

    def states(self) -> dict[str, str]:
        """The state of every search."""
        return {study: self.search(study)["state"] for study in self.studies}

    def search(self, study: str) -> dict[str, Any]:
        """A search, once the database answers."""
        return until(lambda: (found := self.servers[0].get(study)).get("state") and found)  # type: ignore[no-any-return]

    def feed(self) -> None:
        """Submit searches until so many are to be done."""
        open_ones = sum(state != "finished" for state in self.states().values())
        for _ in range(ACTIVE - open_ones):
            study = f"s{len(self.studies):03}"
            if len(self.studies) % REAL_EVERY:
                submit(self.servers[0], study, trials=TRIALS, seconds=0.2)
            else:
                self.servers[0].submit(study, tracking={"experiment": "faults"})
            self.studies.append(study)

    def strike(self) -> bool:
        """Kill a controller, but none four times: a search whose controllers die before any trial ends is given up."""
        found = {search: pid for search, pid in alive(self.folder).items() if self.struck[search] < MOST_STRIKES}
        if not found:
            return False
        search = self.chance.choice(sorted(found))
        self.struck[search] += 1
        os.kill(found[search], signal.SIGKILL)
        return True

    def kill(self, victim: str) -> None:
        """Kill a part, and start it again."""
        match victim:
            case "server":
                index = self.chance.randrange(2)
                self.servers[index].kill()
                self.servers[index] = self.serve()  # the other one takes over meanwhile
            case "controller":
                if not self.strike():
                    return
            case "Ray node":
                self.struck.update(alive(self.folder))  # those that run there die with it
                stop(self.node)
                self.node = self.cluster.join("--num-cpus=1")
            case "Postgres":
                self.postgres.stop(signal.SIGQUIT)
                self.postgres.start()
            case "MLflow":
                end_session(self.mlflow)
                self.serve_mlflow()
        self.killed[victim] += 1


def alive(folder: Path) -> dict[str, int]:
    """The controllers that live, by the folder of their search."""
    living, found = controllers(folder), {}
    for lock in (folder / "service" / "searches").glob("*/runs/lock"):
        with contextlib.suppress(ValueError, KeyError):
            pid = json.loads(lock.read_text())["pid"]
            if pid in living:
                found[lock.parts[-3]] = pid
    return found


def end_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all of its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def torment(service: Service, kills: int, minutes: float) -> None:
    """Kill parts at random moments, while there is always something to do."""
    victims, weights = list(service.victims), list(service.victims.values())
    end = time.monotonic() + 60 * minutes
    while service.killed.total() < kills and time.monotonic() < end:
        service.feed()
        time.sleep(service.chance.uniform(*PAUSE_S))
        victim = service.chance.choices(victims, weights)[0]
        service.kill(victim)
        states = dict(Counter(service.states().values()))
        print(f"{time.strftime('%H:%M:%S')} {service.killed.total()} {victim} {states}", flush=True)


def drain(service: Service) -> None:
    """Wait until no search is on its way any more, or for long enough."""
    deadline = time.monotonic() + DRAIN_S
    while time.monotonic() < deadline:
        if not {"queued", "running", "pausing"} & set(service.states().values()):
            return
        time.sleep(1.0)


def verdict(service: Service) -> dict[str, Any]:
    """Searches lost, run twice and left running, and trials that MLflow lacks."""
    found: Counter[str] = Counter()
    server = service.servers[0]
    runs = mlflow_runs(service.uri)
    for index, study in enumerate(service.studies):
        real = index % REAL_EVERY == 0
        search = service.search(study)
        told = [number for number, kind in told_of(server, study) if kind == "trial"]
        whole = sorted(set(told)) == list(range(len(set(told)) if real else TRIALS)) and len(told) > 2
        found["lost"] += search["state"] in ("failed", "paused", "cancelled") or not whole
        found["run_twice"] += "twice" in ran(server, study) or len(told) != len(set(told))
        found["left_running"] += search["state"] in ("queued", "running", "pausing")
        found["runs"] += search["run"]
        if real:
            of_study = [run for run in runs if run["study"] == study]
            found["trials_missing_in_mlflow"] += max(0, len(told) + 1 - len(of_study))
            found["left_open_in_mlflow"] += any(run["status"] == "RUNNING" for run in of_study)
        if search["state"] != "finished" or not whole:
            print(study, search, sorted(told))
    found["left_running"] += len(controllers(service.folder))
    names = ("lost", "run_twice", "left_running", "runs", "trials_missing_in_mlflow", "left_open_in_mlflow")
    return {"searches": len(service.studies), **{name: found[name] for name in names}}


def told_of(server: Server, study: str) -> list[tuple[int | None, str]]:
    """The trial and kind of every event of a search that ended."""
    found, kind, count = [], "", server.get(study)["events"]
    with server.client.stream("GET", f"/api/v1/searches/{study}/events") as answer:
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            kind = value if name == "event" else kind
            if name == "data":
                found.append((json.loads(value).get("trial"), kind))
                if len(found) == count:
                    break
    return found


def mlflow_runs(uri: str) -> list[dict[str, str]]:
    """The study and status of every run in MLflow."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("faults")
    if experiment is None:
        return []
    runs = client.search_runs([experiment.experiment_id], max_results=10_000)
    parents = {run.info.run_id: run.data.tags.get("autocompress.study", "") for run in runs}
    of = [parents.get(run.data.tags.get("mlflow.parentRunId", run.info.run_id), "") for run in runs]
    return [{"study": study, "status": run.info.status} for study, run in zip(of, runs, strict=True)]


def main() -> None:
    """Kill, wait, count, and write what was found as one more row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--controllers", choices=("ray", "process"), default="ray")
    parser.add_argument("--postgres", action="store_true", help="the database is a Postgres, and killed as well")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # all that was started ends with this
    with tempfile.TemporaryDirectory(prefix="", dir="/tmp") as place, contextlib.ExitStack() as stack:
        made = stack.enter_context(cluster(Path(place)))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        postgres = stack.enter_context(running_postgres()) if options.postgres else None
        service = Service(folder, made, options.controllers, random.Random(options.seed), stack, postgres)
        service.begin()
        began = time.monotonic()
        torment(service, options.kills, options.minutes)
        seconds = round(time.monotonic() - began)
        drain(service)
        total = verdict(service)
    killed = {f"killed_{victim.replace(' ', '_').lower()}": service.killed[victim] for victim in service.victims}
    row = {"case": options.controllers, "seed": options.seed, "seconds": seconds, **killed, **total}
    path = HERE / "faults.csv"
    rows = pd.read_csv(path).to_dict("records") if path.is_file() else []
    same = ("case", "seed")
    rows = [other for other in rows if any(other[key] != row[key] for key in same)]
    pd.DataFrame([*rows, row]).to_csv(path, index=False)
    print(path.read_text())


if __name__ == "__main__":
    main()
