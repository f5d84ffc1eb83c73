"""The HTTP API on a real Postgres, where many ask at once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from databases import Postgres
from served import parts_for
from starlette.testclient import TestClient

from autocompress.search.storage import close_storages
from autocompress.service.app import make_app

from .test_app import Api, problem


@pytest.fixture
def api(tmp_path: Path, postgres_server: Postgres) -> Iterator[Api]:
    parts = parts_for(tmp_path, storage=postgres_server.make())
    with TestClient(make_app(parts), raise_server_exceptions=False) as client:
        yield Api(parts, client)
    parts.database.close()
    close_storages()


def test_of_equal_submissions_at_once_one_is_made(api: Api) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: api.submit("one", key="k"), range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(list((api.parts.settings.folder / "searches").iterdir())) == 1
    assert problem(api.submit("one", who="bob"), 409)["what"] == "this name is in use"


def test_searches_are_listed_changed_steered_and_told(api: Api) -> None:
    for index in range(3):
        assert api.submit(f"s{index}").status_code == 201
    page = api.call("GET", "/api/v1/searches?limit=2").json()
    rest = api.call("GET", f"/api/v1/searches?limit=2&after={page['next']}").json()
    assert [row["study"] for row in page["searches"] + rest["searches"]] == ["s2", "s1", "s0"]
    assert api.call("PATCH", "/api/v1/searches/s0", json={"trials": 9, "timeout_s": 60.5}).json()["timeout_s"] == 60.5
    for request, state in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        assert api.call("POST", f"/api/v1/searches/s0/{request}").json()["state"] == state
    told = api.call("GET", "/api/v1/searches/s0/events").text
    assert [line[4:] for line in told.splitlines() if line.startswith("id: ")] == ["1", "2", "3", "4", "5"]
    assert problem(api.call("GET", "/api/v1/searches/s0/front"), 409)["what"] == "it has no trials yet"
    assert problem(api.call("GET", "/api/v1/searches/s0", "bob"), 404)
    assert 'autocompress_searches{state="queued"} 2.0' in api.call("GET", "/metrics", "ada").text
