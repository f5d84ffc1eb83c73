"""What does a server do under load, and what does load do to searches? Writes load.csv and queue.csv beside this file.

Two real searches (a small network on 8x8 digits, inline: trials in the controller) run alone, then beside so many event
streams and requests a second, then alone again. Requests are sent by the clock, whether or not earlier ones were
answered, and timed from the moment they were due. Then so many searches by tests/pretender.py, which tells trials that
nobody ran, are queued at once and drained in order.

Usage, from a checkout: python experiments/service/load.py [--seconds 300] [--streams 200] [--rate 50] [--searches 100]
[--only load|queue]   (about 2 x SECONDS and two minutes)
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pandas as pd
import psutil

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))
from pursued import submit  # type: ignore[import-not-found]  # noqa: E402
from served import Server, archive, controllers, served, until  # type: ignore[import-not-found]  # noqa: E402

STUDIES = ("first", "second")
WARM_TRIALS, WARM_S = 1, 400.0
DIGITS = HERE.parents[1] / "tests" / "digits"
SLOTS = 4  # searches of the queue at once
SPACE = {
    "version": 1,
    "steps": [
        {"technique": "channel_pruning", "ratio": {"low": 0.1, "high": 0.8, "step": 0.02}, "scope": "layer"},
        {"technique": "finetune", "epochs": {"low": 1, "high": 2}, "learning_rate": {"low": 0.001, "high": 0.01}},
        {"one_of": [{"technique": "int8_static", "calibration": "minmax"}, "float16", "none"]},
    ],
}
# Paths below /api/v1 and how often each is asked for, of fifty requests.
ROUTES = {
    "/searches/{study}": 16,
    "/searches": 10,
    "/searches/{study}/front": 8,
    "/searches/{study}/trials/0": 8,
    "/searches/{study}/logs": 4,
    "/healthz": 2,
    "/metrics": 2,
}


class Load:
    """Streams and requests for a while, and what became of them."""

    def __init__(self, server: Server, streams: int, rate: float) -> None:
        self._server, self._streams, self._rate = server, streams, rate
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.errors: Counter[str] = Counter()
        self.late: list[float] = []  # seconds from an event to its arrival

    async def run(self, seconds: float) -> None:
        """Keep the streams open and send the requests."""
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        headers = dict(self._server.client.headers)
        # Another token than that of the streams, as one person does not send all of this.
        asking = {"Authorization": f"Bearer {self._server.tokens().create('load', admin=True)}"}
        async with (
            httpx2.AsyncClient(base_url=self._server.url, headers=headers, limits=limits, timeout=60) as client,
            httpx2.AsyncClient(base_url=self._server.url, headers=asking, limits=limits, timeout=60) as asker,
        ):
            self._end = time.monotonic() + seconds
            streams = [asyncio.create_task(self._listen(client, index)) for index in range(self._streams)]
            order = [route for route, count in ROUTES.items() for _ in range(count)]
            np.random.default_rng(0).shuffle(order)
            sent, due = [], time.monotonic()
            for number in range(int(seconds * self._rate)):
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                sent.append(asyncio.create_task(self._ask(asker, order[number % len(order)], number, due)))
                due += 1 / self._rate
            await asyncio.gather(*sent)
            for task in streams:
                task.cancel()
            for ended in await asyncio.gather(*streams, return_exceptions=True):
                if isinstance(ended, Exception):
                    self.errors[f"stream {ended!r}"] += 1

    async def _ask(self, client: httpx2.AsyncClient, route: str, number: int, due: float) -> None:
        path = route.replace("{study}", STUDIES[number % 2])
        try:
            answer = await client.get(path if route in ("/healthz", "/metrics") else f"/api/v1{path}")
            if answer.status_code != 200:
                self.errors[f"{route} {answer.status_code}"] += 1
        except httpx2.HTTPError as error:
            self.errors[f"{route} {type(error).__name__}"] += 1
        self.seconds[route].append(time.monotonic() - due)

    async def _listen(self, client: httpx2.AsyncClient, index: int) -> None:
        study, number = STUDIES[index % 2], self._server.get(STUDIES[index % 2])["events"] if index < 2 else 0
        number = self._seen.setdefault(study, number)
        url = f"/api/v1/searches/{study}/events"
        while time.monotonic() < self._end:
            try:
                async with client.stream("GET", url, headers={"Last-Event-ID": str(number)}) as answer:
                    if answer.status_code != 200:
                        self.errors[f"stream {answer.status_code}"] += 1
                        await asyncio.sleep(1.0)
                        continue
                    async for line in answer.aiter_lines():
                        number = self._line(line, number)
            except httpx2.HTTPError as error:
                self.errors[f"stream {type(error).__name__}"] += 1

    def _line(self, line: str, number: int) -> int:
        name, _, value = line.partition(": ")
        if name == "id":
            self.errors["stream gap"] += int(value) != number + 1
            return int(value)
        if name == "data":
            told = datetime.fromisoformat(json.loads(value)["time"]).timestamp()
            self.late.append(time.time() - told)
        return number

    _seen: dict[str, int] = {}  # noqa: RUF012  # where the streams of a search began


class Watch:
    """Trials and processor time of the searches, the server and this process, from one moment on."""

    def __init__(self, server: Server) -> None:
        self._server, self._began = server, time.monotonic()
        self._parts = {study: psutil.Process(controllers(server.folder, study)[0]) for study in STUDIES}
        self._parts |= {"server": psutil.Process(server.process.pid), "load": psutil.Process()}
        self._before = {name: spent(process) for name, process in self._parts.items()}
        self._trials = sum(trials(server, study) for study in STUDIES)

    def row(self, case: str) -> dict[str, Any]:
        """What happened since."""
        used = {name: spent(process) - self._before[name] for name, process in self._parts.items()}
        done = sum(trials(self._server, study) for study in STUDIES) - self._trials
        searching = used["first"] + used["second"]
        seconds = time.monotonic() - self._began
        return {
            "case": case,
            "seconds": round(seconds, 1),
            "trials": done,
            "trials_a_minute": round(60 * done / seconds, 1),
            "cpu_seconds_a_trial": round(searching / max(done, 1), 3),
            "search_cpu": round(searching / seconds, 3),
            "server_cpu": round(used["server"] / seconds, 3),
            "load_cpu": round(used["load"] / seconds, 3),
            "cpus": os.cpu_count(),
        }


def spent(process: psutil.Process) -> float:
    """Processor seconds of a process, with those of its children that ended."""
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def trials(server: Server, study: str) -> int:
    """How many trials of a search were told."""
    answer = server.client.get(f"/api/v1/searches/{study}/front")
    return sum(answer.json()["counts"].values()) if answer.status_code == 200 else 0


async def loaded(load: Load, server: Server, seconds: float) -> list[dict[str, Any]]:
    """The load, and the server's memory every ten seconds of it."""
    process, rows = psutil.Process(server.process.pid), []

    async def look() -> None:
        for index in range(int(seconds // 10) + 1):
            rows.append({"case": f"memory at {index * 10} s", "rss_mb": round(process.memory_info().rss / 1e6, 1)})
            await asyncio.sleep(10)

    looking = asyncio.create_task(look())
    await load.run(seconds)
    looking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await looking
    return rows


def quantiles(case: str, seconds: list[float], errors: int) -> dict[str, Any]:
    """How many there were, and how long they took, in ms."""
    if not seconds:
        return {"case": case, "count": 0, "errors": errors}
    p50, p99, most = np.quantile(seconds, [0.5, 0.99, 1.0]) * 1000
    times = {"p50_ms": round(p50, 1), "p99_ms": round(p99, 1), "max_ms": round(most, 1)}
    return {"case": case, "count": len(seconds), "errors": errors, **times}


def under_load(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """The searches alone, beside the load, and alone again."""
    with served(folder, 2, poll_s=0.5, lease_s=15.0) as server:
        for study in STUDIES:
            search(server, study)
        deadline = time.monotonic() + WARM_S
        while not all(trials(server, study) >= WARM_TRIALS for study in STUDIES):
            assert time.monotonic() < deadline, server.client.get("/api/v1/searches/first/logs").text
            time.sleep(1.0)
        rows = [alone(server, options.seconds / 2, "alone, before")]
        load, watch = Load(server, options.streams, options.rate), Watch(server)
        memory = asyncio.run(loaded(load, server, options.seconds))
        rows.append(watch.row(f"{options.streams} streams, {options.rate:g} requests a second"))
        rows.append(alone(server, options.seconds / 2, "alone, after"))
        for study in STUDIES:
            server.client.post(f"/api/v1/searches/{study}/cancel")
        until(lambda: not controllers(server.folder))
    for route in ROUTES:
        failed = sum(count for name, count in load.errors.items() if name.startswith(f"{route} "))
        rows.append(quantiles(route, load.seconds[route], failed))
    everything = [one for route in ROUTES for one in load.seconds[route]]
    failed = sum(count for name, count in load.errors.items() if not name.startswith("stream"))
    rows.append(quantiles("all requests", everything, failed))
    failed = sum(count for name, count in load.errors.items() if name.startswith("stream"))
    rows.append(quantiles("events, from their time to a stream's", load.late, failed))
    print({name: count for name, count in load.errors.items() if count})
    return rows + memory


def search(server: Server, study: str) -> None:
    """Submit a long search over 8x8 digits."""
    config = {"study": study, "task": "task.py:digits", "search_space": "space.yaml", "tracking": None}
    files = {name: (DIGITS / name).read_text() for name in ("task.py", "network.py")}
    files["space.yaml"] = json.dumps(SPACE)
    files["search.yaml"] = json.dumps({**config, "search": {"trials": 100_000, "workers": 1}})
    sent = server.client.post("/api/v1/searches", files={"archive": archive(files)})
    assert sent.status_code == 201, sent.text


def alone(server: Server, seconds: float, case: str) -> dict[str, Any]:
    """The searches without load."""
    watch = Watch(server)
    time.sleep(seconds)
    return watch.row(case)


def drained(count: int, folder: Path) -> Iterator[dict[str, Any]]:
    """So many searches, queued at once: when each began, in the order in which they were submitted."""
    with served(folder, SLOTS, poll_s=0.2) as server:
        studies = [f"q{index:03}" for index in range(count)]
        for study in studies:
            submit(server, study, trials=2, seconds=0.05)
        most = 0
        while (left := sum(server.get(study)["state"] != "finished" for study in studies[-2 * SLOTS :])) and left:
            most = max(most, len(controllers(server.folder)))
            time.sleep(0.5)
        for study in studies:
            server.wait(study, "finished")
            with server.client.stream("GET", f"/api/v1/searches/{study}/events") as answer:
                told = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
            began = next(data["time"] for data in told if data.get("state") == "running")
            numbers = sorted(data["trial"] for data in told if "trial" in data)
            row = {"case": study, "began": began, "run": server.get(study)["run"], "trials": len(numbers)}
            yield {**row, "whole": numbers == [0, 1], "at_once": most}


def main() -> None:
    """Measure both, and write what was found."""
    parser = argparse.ArgumentParser()
    for name, usual in (("seconds", 300.0), ("streams", 200), ("rate", 50.0), ("searches", 100)):
        parser.add_argument(f"--{name}", type=type(usual), default=usual)
    parser.add_argument("--only", choices=("load", "queue"))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # all that was started ends with this
    if options.only != "queue":
        with tempfile.TemporaryDirectory() as folder:
            found = pd.DataFrame(under_load(options, Path(folder)))
        found.to_csv(HERE / "load.csv", index=False)
        print(found.to_string())
    if options.only != "load":
        with tempfile.TemporaryDirectory() as folder:
            queue = pd.DataFrame(drained(options.searches, Path(folder)))
        queue.to_csv(HERE / "queue.csv", index=False)
        in_order = queue["began"].is_monotonic_increasing
        print(f"in order: {in_order}; once: {(queue['run'] == 1).all()}; whole: {queue['whole'].all()}")


if __name__ == "__main__":
    main()
