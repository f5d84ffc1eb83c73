"""The HTTP API in this process: who is let in, what is refused and how."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pretender import pretend
from served import archive, parts_for
from starlette.testclient import TestClient

from autocompress.config import Tracking, load_config
from autocompress.service.app import make_app
from autocompress.service.parts import Parts
from autocompress.service.quotas import Quota
from autocompress.service.submission import DERIVED
from autocompress.service.tokens import Tokens

OPEN = {"/healthz", "/readyz"}


class Api:
    """An application with clients for Ann, Bob and an admin."""

    def __init__(self, parts: Parts, client: TestClient) -> None:
        self.parts, self.client = parts, client
        self.tokens = {name: parts.tokens.create(name, admin=name == "ada") for name in ("ann", "bob", "ada")}

    def call(self, method: str, path: str, who: str | None = "ann", **more: Any) -> Any:
        headers = {**({"Authorization": f"Bearer {self.tokens[who]}"} if who else {}), **more.pop("headers", {})}
        return self.client.request(method, path, headers=headers, **more)

    def submit(self, study: str = "one", who: str = "ann", key: str | None = None, **form: Any) -> Any:
        headers = {"Idempotency-Key": key} if key else {}
        files = {"archive": form.pop("archive", None) or archive(study=study)}
        return self.call("POST", "/api/v1/searches", who, files=files, data=form, headers=headers)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    parts = parts_for(tmp_path, failures=10_000)
    with TestClient(make_app(parts), raise_server_exceptions=False) as client:
        yield Api(parts, client)
    parts.database.close()


def problem(response: Any, status: int) -> dict[str, Any]:
    """The problem document of a response, which must be complete."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = response.json()
    assert found["status"] == status
    assert {"type", "title", "detail", "what", "where", "rule", "fix"} <= found.keys()
    assert all(isinstance(found[name], str) for name in ("title", "detail", "what", "where", "rule", "fix"))
    assert found["what"]
    assert found["fix"]
    return found


def routes(api: Api) -> list[tuple[str, str]]:
    """Every method and path that the API describes, with something in the place of names."""
    document = api.call("GET", "/api/v1/openapi.json").json()
    filled = {"{study}": "one", "{request}": "pause", "{trial}": "0", "{figure}": "front.png"}
    found = [("GET", "/api/v1/openapi.json"), ("GET", "/none")]
    for path, methods in document["paths"].items():
        for name, value in filled.items():
            path = path.replace(name, value)
        found += [(method.upper(), path) for method in methods]
    return found


def test_every_route_wants_a_good_token_but_health(api: Api) -> None:
    tokens = api.parts.tokens
    revoked, expired = tokens.create("carl"), Tokens(api.parts.database, lambda: 0.0).create("ann")
    tokens.revoke("carl")
    bad = [None, "Bearer", "Bearer x", f"Bearer {revoked}", f"Bearer {expired}", f"Basic {api.tokens['ann']}",
           f"Bearer {api.tokens['ann'][:-1]}", f"Bearer act_{'0' * 16}_{api.tokens['ann'][-43:]}"]  # fmt: skip
    found = routes(api)
    assert len(found) > 14
    for method, path in found:
        for header in bad:
            answer = api.client.request(method, path, headers={"Authorization": header} if header else {})
            if path in OPEN:
                assert answer.status_code in (200, 503)
            else:
                assert problem(answer, 401)["where"] == "Authorization"
                assert answer.headers["www-authenticate"] == "Bearer"


def test_nobody_touches_another_persons_search(api: Api) -> None:
    assert api.submit("one").status_code == 201
    theirs = [(method, path) for method, path in routes(api) if "/one" in path]
    assert len(theirs) >= 9
    for method, path in theirs:
        answer = problem(api.call(method, path, "bob", **({"json": {}} if method == "PATCH" else {})), 404)
        assert answer["what"] == "there is no such search of yours"
    assert api.call("GET", "/api/v1/searches", "bob").json()["searches"] == []
    assert len(api.call("GET", "/api/v1/searches", "ada").json()["searches"]) == 1
    assert api.call("POST", "/api/v1/searches/one/cancel", "ada").json()["state"] == "cancelled"


def test_a_search_is_queued_with_what_it_needs(api: Api) -> None:
    made = api.submit("one", priority="3", trials="7")
    assert made.status_code == 201
    assert made.headers["location"] == "/api/v1/searches/one"
    found = made.json()
    assert (found["state"], found["owner"], found["priority"], found["trials"]) == ("queued", "ann", 3, 7)
    assert api.call("GET", "/api/v1/searches/one").json() == found
    project = api.parts.places.search(found["id"]) / "project"
    derived = project / ".autocompress-service.yaml"
    assert derived.stat().st_mode & 0o777 == 0o600
    assert f"storage: {api.parts.settings.storage}\n" in derived.read_text()


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({"port": 8000}, "http://127.0.0.1:8000"),
        ({"port": 8000, "host": "::1"}, "http://[::1]:8000"),
        ({"port": 8000, "host": "0.0.0.0"}, None),
        ({"port": 0}, None),
        ({"port": 8000, "host": "0.0.0.0", "url": "https://compress.team"}, "https://compress.team"),
    ],
)
def test_a_search_knows_where_people_see_it(given: dict[str, Any], address: str | None, tmp_path: Path) -> None:
    parts = parts_for(tmp_path, tracking="http://mlflow:5000", **given)
    with TestClient(make_app(parts), raise_server_exceptions=False) as client:
        found = Api(parts, client).submit(archive=archive(study="one", tracking={})).json()
    derived = parts.places.search(found["id"]) / "project" / DERIVED
    assert yaml.safe_load(derived.read_text())["tracking"] == {
        "uri": "http://mlflow:5000", "experiment": "one", "server": address,
    }  # fmt: skip
    assert load_config(derived).tracking == Tracking(uri="http://mlflow:5000", experiment="one", server=address)


def test_a_search_keeps_its_image_and_gets_the_servers_cluster(api: Api) -> None:
    ray = {"address": "elsewhere:6379", "runtime_env": {"image_uri": "team/task:1.0"}}
    found = api.submit("one", archive=archive(study="one", task="team.task:make", ray=ray)).json()
    derived = (api.parts.places.search(found["id"]) / "project" / ".autocompress-service.yaml").read_text()
    assert yaml.safe_load(derived)["ray"] == {**ray, "address": api.parts.settings.ray}
    refused = api.submit("two", archive=archive(study="two", ray=ray))
    assert "Ray sends no code into a container" in refused.text
    assert refused.status_code == 400


def test_a_repeated_key_gives_the_first_search_and_leaves_nothing_behind(api: Api) -> None:
    first = api.submit("one", key="k")
    again = api.submit("one", key="k")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert len(list((api.parts.settings.folder / "searches").iterdir())) == 1
    assert "Idempotency-Key" in problem(api.submit("two", key="k"), 409)["where"]
    assert api.submit("two", who="bob", key="k").status_code == 201


@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        ({"archive": archive({"other.yaml": "study: one"})}, 422, "there is no file 'search.yaml'"),
        ({"archive": archive(budget={"sise": "1 KB"})}, 400, "sise"),
        ({"archive": archive(search_space=3)}, 400, "search_space"),
        ({"archive": b"nothing"}, 422, "cannot be read"),
        ({"archive": archive({"../search.yaml": ""})}, 422, "leads out of its folder"),
        ({"config": "../search.yaml"}, 422, "leads out of the archive"),
        ({"config": "/etc/passwd"}, 422, "leads out of the archive"),
        ({"experiment": "mnist5k_lenet"}, 422, "one of archive and experiment"),
        ({"trials": "0"}, 422, "greater than or equal to 1"),
        ({"nonsense": "1"}, 422, "nonsense"),
    ],
)
def test_what_cannot_be_searched_is_refused_and_leaves_nothing(
    api: Api, form: dict[str, Any], status: int, words: str
) -> None:
    found = problem(api.submit("one", **form), status)
    assert words in found["detail"]
    assert list((api.parts.settings.folder / "searches").glob("*")) == []
    assert api.call("GET", "/api/v1/searches", "ada").json()["searches"] == []


def test_a_bundled_experiment_is_searched_by_its_name(api: Api) -> None:
    made = api.call("POST", "/api/v1/searches", files={"experiment": (None, "mnist5k_lenet")})
    assert made.status_code == 201, made.text
    assert made.json()["study"] == "mnist5k-lenet"
    found = api.call("POST", "/api/v1/searches", files={"experiment": (None, "../mnist5k_lenet")})
    assert "is no name" in problem(found, 400)["detail"]


def test_a_plan_leaves_nothing_behind(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; print('{\"config\": \"' + sys.argv[2] + '\"}')"
    monkeypatch.setattr("autocompress.service.exports.COMMAND", (sys.executable, "-S", "-c", code))
    planned = api.call("POST", "/api/v1/plans", files={"archive": archive()})
    assert planned.status_code == 200, planned.text
    assert planned.json() == {"config": DERIVED}  # no path of the server's
    monkeypatch.setattr(
        "autocompress.service.exports.COMMAND", (sys.executable, "-S", "-c", "raise SystemExit('error: a: b: c')")
    )
    assert problem(api.call("POST", "/api/v1/plans", files={"archive": archive()}), 400)["detail"] == "a: b: c"
    assert list((api.parts.settings.folder / "searches").iterdir()) == []
    assert api.call("GET", "/api/v1/searches").json()["searches"] == []


def test_a_name_in_use_by_somebody_else_is_refused(api: Api) -> None:
    api.submit("one")
    assert "in use" in problem(api.submit("one", who="bob"), 409)["what"]


def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autocompress.service.app.FORM_BYTES", 1000 - 100_000_000)
    with TestClient(make_app(api.parts)) as client:
        headers = {"Authorization": f"Bearer {api.tokens['ann']}"}
        told = client.post("/api/v1/searches", files={"archive": bytes(2000)}, headers=headers)
        problem(told, 413)
        stream = (bytes(500) for _ in range(4))
        untold = client.post(
            "/api/v1/searches", content=stream, headers={**headers, "Content-Type": "multipart/form-data; boundary=x"}
        )
        problem(untold, 413)


def test_what_can_be_asked_of_a_search(api: Api) -> None:
    api.submit("one")
    for request, state in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        answer = api.call("POST", f"/api/v1/searches/one/{request}")
        assert (answer.status_code, answer.json()["state"]) == (202, state)
    found = problem(api.call("POST", "/api/v1/searches/one/resume"), 409)
    assert (found["what"], found["where"]) == ("cannot resume a search that is cancelled", "search 'one'")
    problem(api.call("POST", "/api/v1/searches/one/fly"), 422)


def test_settings_are_changed_and_checked(api: Api) -> None:
    api.submit("one")
    changed = api.call("PATCH", "/api/v1/searches/one", json={"trials": 9, "priority": -2, "timeout_s": 60})
    assert {name: changed.json()[name] for name in ("trials", "priority", "timeout_s")} == {
        "trials": 9, "priority": -2, "timeout_s": 60.0}  # fmt: skip
    for wrong in ({"trials": 0}, {"workers": "many"}, {"state": "finished"}, {"timeout_s": -1}):
        problem(api.call("PATCH", "/api/v1/searches/one", json=wrong), 422)


def test_lists_are_filtered_and_paged(api: Api) -> None:
    for index in range(3):
        api.submit(f"s{index}")
    api.call("POST", "/api/v1/searches/s1/cancel")
    found = api.call("GET", "/api/v1/searches?state=cancelled").json()
    assert [row["study"] for row in found["searches"]] == ["s1"]
    page = api.call("GET", "/api/v1/searches?limit=2").json()
    rest = api.call("GET", f"/api/v1/searches?limit=2&after={page['next']}").json()
    assert sorted(row["study"] for row in page["searches"] + rest["searches"]) == ["s0", "s1", "s2"]
    assert rest["next"] is None
    problem(api.call("GET", "/api/v1/searches?limit=1000"), 422)


def test_results_of_a_search_that_was_not_begun_are_an_answer(api: Api) -> None:
    api.submit("one")
    for path in ("front", "trials/0", "explain", "export"):
        assert problem(api.call("GET", f"/api/v1/searches/one/{path}"), 409)["what"] == "it has no trials yet"
    problem(api.call("GET", "/api/v1/searches/one/logs"), 404)


def begun(api: Api, study: str = "one", trials: int = 2) -> None:
    """A search of Ann's that has trials."""
    assert api.submit(study).status_code == 201
    config = {"storage": api.parts.settings.storage, "study": study}
    with contextlib.chdir(api.parts.settings.folder):
        pretend(config, trials, {"seconds": 0}, [])


def test_a_document_that_a_client_has_already_is_not_sent_again(api: Api) -> None:
    begun(api)
    for path in ("front", "trials/1"):
        url = f"/api/v1/searches/one/{path}"
        first = api.call("GET", url)
        tag = first.headers["etag"]
        for known in (tag, f'"other", W/{tag}', "*"):
            again = api.call("GET", url, headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert api.call("GET", url, headers={"If-None-Match": '"other"'}).json() == first.json()
    tag = api.call("GET", "/api/v1/searches/one/front").headers["etag"]
    with contextlib.chdir(api.parts.settings.folder):
        pretend({"storage": api.parts.settings.storage, "study": "one"}, 3, {"seconds": 0}, [])
    grown = api.call("GET", "/api/v1/searches/one/front", headers={"If-None-Match": tag})
    assert (grown.status_code, grown.json()["counts"]["completed"]) == (200, 3)


def test_figures_are_pictures_and_points(api: Api) -> None:
    begun(api)
    for name in ("front.json", "speed.json"):
        drawn = api.call("GET", f"/api/v1/searches/one/figures/{name}")
        assert drawn.headers["content-type"] == "application/json"
        front = next(trace for trace in drawn.json()["data"] if trace["name"].startswith("front"))
        assert front["customdata"] == [1]  # the smaller one of two that are equal otherwise
    for path in ("front.png", "steps.png?trial=1"):
        drawn = api.call("GET", f"/api/v1/searches/one/figures/{path}")
        assert (drawn.headers["content-type"], drawn.content[:4]) == ("image/png", b"\x89PNG")
    problem(api.call("GET", "/api/v1/searches/one/figures/steps.png?trial=9"), 404)
    problem(api.call("GET", "/api/v1/searches/one/figures/none.png"), 422)


def test_people_are_told_who_they_are_and_what_they_may_have(api: Api) -> None:
    api.parts.allowances.give("ann", Quota(searches=3))
    assert api.call("GET", "/api/v1/me").json() | {"resets": ""} == {
        "name": "ann", "admin": False, "quota": {"searches": 3, "workers": None, "trial_seconds": None},
        "running": 0, "used_trial_seconds": 0.0, "resets": ""}  # fmt: skip


def test_events_go_on_from_the_last_id_and_end_with_the_search(api: Api) -> None:
    api.submit("one")
    for request in ("pause", "resume", "cancel"):
        api.call("POST", f"/api/v1/searches/one/{request}")
    for last, states in (
        (None, ["queued", "paused", "queued", "cancelled"]),
        ("2", ["queued", "cancelled"]),
        ("4", []),
        ("9", []),  # of another database, or made up
    ):
        answer = api.call("GET", "/api/v1/searches/one/events", headers={"Last-Event-ID": last} if last else {})
        assert answer.headers["content-type"].startswith("text/event-stream")
        data = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
        assert [row["state"] for row in data] == states


def test_a_database_that_is_away_is_an_answer_and_not_the_end(api: Api, tmp_path: Path) -> None:
    path, aside = tmp_path / "autocompress.db", tmp_path / "aside"
    api.parts.database.engine.dispose()
    path.rename(aside)
    path.mkdir()
    found = problem(api.call("GET", "/api/v1/searches"), 503)
    assert found["what"] == "the database does not answer"
    assert api.client.get("/readyz").status_code == 503
    assert api.client.get("/healthz").status_code == 200
    path.rmdir()
    aside.rename(path)
    assert api.call("GET", "/api/v1/searches").status_code == 200


def test_metrics_count_requests_searches_and_leases_for_admins_and_name_nobody(api: Api) -> None:
    api.submit("one")
    api.call("GET", "/api/v1/searches/one")
    api.call("GET", "/api/v1/searches/one/trials/3")
    api.call("GET", "/nowhere")
    api.client.get("/api/v1/searches")
    assert problem(api.call("GET", "/metrics"), 403)["what"] == "this is for admins"
    text = api.call("GET", "/metrics", "ada").text
    assert 'autocompress_searches{state="queued"} 1.0' in text
    assert 'autocompress_leases{state="held"} 0.0' in text
    for method, route, status in (("POST", "/api/v1/searches", 201), ("GET", "/api/v1/searches/{study}", 200),
                                  ("GET", "/api/v1/searches/{study}/trials/{trial}", 409), ("GET", "none", 404),
                                  ("GET", "none", 401), ("GET", "/metrics", 403)):  # fmt: skip
        labels = f'method="{method}",route="{route}",status="{status}"'
        assert f"autocompress_requests_total{{{labels}}} 1.0" in text, labels
        assert f"autocompress_request_seconds_count{{{labels}}} 1.0" in text
    assert not [line for line in text.splitlines() if "ann" in line or '"one"' in line or "/one" in line]


def test_errors_of_the_kind_that_the_terminal_prints_keep_their_parts(api: Api) -> None:
    found = problem(api.submit("one", archive=archive(budget={"size": "60 KX"})), 400)
    assert found["where"].startswith("search.yaml:")
    assert "KX" in found["detail"]
