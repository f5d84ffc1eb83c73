"""The API held to its own description: what it answers is as it says, whatever it is sent."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from pretender import pretend
from served import archive, parts_for
from starlette.testclient import TestClient

from autocompress.service import exports
from autocompress.service.app import make_app
from autocompress.service.client import parse_events
from autocompress.service.described import EVENTS
from autocompress.service.events import append
from autocompress.service.observer import front_data, trial_data
from autocompress.service.parts import Parts
from autocompress.service.tokens import Person

EXAMPLES = 8  # of each operation
# Stands in for `autocompress export` and `autocompress plan`.
COMMAND = """
import sys
from pathlib import Path
if sys.argv[1] == "export":
    out = Path(sys.argv[sys.argv.index("--out") + 1])
    out.mkdir()
    (out / "model.onnx").write_bytes(bytes(1000))
print('{"lines": []}')
"""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """A server's parts with a search that has trials and will not go on, and another one that may be steered."""
    folder = tmp_path_factory.mktemp("described")
    made = parts_for(folder, rate=1e6, burst=1_000_000, failures=1_000_000, slots=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exports, "COMMAND", (sys.executable, "-S", "-c", COMMAND))
        patch.chdir(folder)
        with TestClient(make_app(made)) as client:
            headers = {"Authorization": f"Bearer {made.tokens.create('ann')}"}
            for study in ("ended", "steered"):
                sent = client.post("/api/v1/searches", files={"archive": archive(study=study)}, headers=headers)
                assert sent.status_code == 201
                pretend({"storage": made.settings.storage, "study": study}, 3, {"seconds": 0}, [])
            client.post("/api/v1/searches/ended/cancel", headers=headers)
        made.runner.start()  # it has no room for searches
        yield made
        made.runner.stop()
    made.database.close()


@pytest.fixture(scope="module")
def headers(parts: Parts) -> dict[str, str]:
    return {"Authorization": f"Bearer {parts.tokens.create('ada', admin=True)}"}


def test_what_is_answered_is_as_described_whatever_is_sent(parts: Parts, headers: dict[str, str]) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="pip install schemathesis")
    app = make_app(parts)
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", app, headers=headers)
    # Streams have a test of their own below: this client waits long for what comes after their end.
    found = [operation.ok() for operation in schema.get_all_operations()]
    operations = [operation for operation in found if not operation.path.endswith("/events")]
    assert len(operations) >= 16
    for operation in operations:
        seen = statuses(operation, headers)
        assert seen
        assert max(seen) < 500, operation.path


def statuses(operation: Any, headers: dict[str, str]) -> list[int]:
    """What an operation answers to examples, each of which is as it is described."""
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    seen: list[int] = []
    excused = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

    @settings(
        max_examples=EXAMPLES,
        suppress_health_check=excused,
        database=None,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
    )
    @given(case=operation.as_strategy())
    def holds(case: Any) -> None:
        # Two in three are of a search that is there: of those that are not there is little to say.
        there = {"study": "steered" if case.method in ("PATCH", "POST") else "ended", "trial": 0}
        if len(seen) % 3:
            case.path_parameters |= {name: there[name] for name in case.path_parameters.keys() & there.keys()}
        case.headers.pop("Authorization", None)
        answer = case.call(headers=headers)
        seen.append(answer.status_code)
        # Not every archive of bytes is one: what may be sent is more than a schema says.
        case.validate_response(answer, headers=headers, excluded_checks=[positive_data_acceptance])

    holds()
    return seen


def test_events_say_what_is_described_and_every_kind_of_them_is(parts: Parts, headers: dict[str, str]) -> None:
    with TestClient(make_app(parts), headers=headers) as client:
        document = client.get("/api/v1/openapi.json").json()
        stream = document["paths"]["/api/v1/searches/{study}/events"]["get"]["responses"]["200"]
        kinds = stream["content"]["text/event-stream"]["itemSchema"]["oneOf"]
        assert [kind["properties"]["event"]["const"] for kind in kinds] == list(EVENTS)
        search = parts.queue.find(Person("ada", admin=True), "ended")
        results = parts.results(search)
        told = {
            "trial": trial_data(0, results.records[0]),
            "front": front_data(results),
            "changed": {"priority": 3},
            "state": {"state": "cancelled", "reason": "why"},
        }
        with parts.database.transaction() as session:
            for kind, data in told.items():
                append(session, search.id, kind, data)
        lines = client.get("/api/v1/searches/ended/events").text.splitlines()
    found = list(parse_events(iter(lines)))
    assert {event.kind for event in found} == EVENTS.keys() == told.keys()
    for event in found:
        EVENTS[event.kind].model_validate(event.data, extra="forbid")
