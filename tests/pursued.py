"""Searches on a real server by controllers that pretend, and what must be true of each in the end."""

import json
from collections.abc import Iterator
from typing import Any

from served import Server, archive, controllers

TRIALS = 12


def submit(server: Server, study: str, trials: int = TRIALS, **pretend: Any) -> None:
    """A search of so many trials by a controller that pretends as it is told."""
    config = {"study": study, "task": "task.py:tiny", "search_space": "space.yaml", "tracking": None}
    files = {"search.yaml": json.dumps(config), "pretend.json": json.dumps(pretend), "task.py": ""}
    sent = server.client.post("/api/v1/searches", files={"archive": archive(files)}, data={"trials": str(trials)})
    assert sent.status_code == 201, sent.text


def ran(server: Server, study: str) -> list[str]:
    """The trials that were run, and by how many at once, in the words of the controllers."""
    path = server.folder / "service" / "searches" / server.get(study)["id"] / "project" / "ran.txt"
    return path.read_text().split() if path.is_file() else []


def events(server: Server, study: str, after: int = 0) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """The events of a search, as its stream tells them, to its end."""
    headers = {"Last-Event-ID": str(after)} if after else {}
    with server.client.stream("GET", f"/api/v1/searches/{study}/events", headers=headers) as response:
        assert response.status_code == 200
        fields: dict[str, str] = {}
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if line and name:
                fields[name] = value
            elif fields:
                yield int(fields["id"]), fields["event"], json.loads(fields["data"])
                fields = {}


def check(server: Server, study: str, trials: int = TRIALS) -> None:
    """Every trial was told and run once, by one controller at a time, and all that happened was told once."""
    assert "twice" not in ran(server, study)
    told = list(events(server, study))
    assert [number for number, _, _ in told] == list(range(1, len(told) + 1))
    numbers = [data["trial"] for _, kind, data in told if kind == "trial"]
    assert sorted(numbers) == list(range(trials)), numbers
    assert [data["state"] for _, kind, data in told if kind == "state"][-1] == "finished"
    assert controllers(server.folder, study) == []
