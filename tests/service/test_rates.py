"""Who asks too often: buckets against a clock, and what an application answers."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from served import Clock, archive, parts_for, settings_for
from starlette.testclient import TestClient

from autocompress.service import rates
from autocompress.service.app import make_app
from autocompress.service.problems import Refusal
from autocompress.service.rates import Buckets, Guard


def test_a_bucket_gives_what_it_holds_and_then_what_comes_in() -> None:
    clock = Clock()
    buckets = Buckets(3, 0.5, clock)
    assert [buckets.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 2.0]
    assert buckets.take("b") == 0.0
    clock.now += 1.5
    assert buckets.take("a") == 0.5
    clock.now += 0.5
    assert [buckets.take("a"), buckets.take("a")] == [0.0, 2.0]
    clock.now += 1000
    assert [buckets.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 2.0]


def test_in_any_time_no_more_is_given_than_what_a_bucket_holds_and_what_came_in() -> None:
    clock, given = Clock(), 0
    buckets = Buckets(5, 2.0, clock)
    for _ in range(1000):
        given += buckets.take("a") == 0.0
        clock.now += 0.01
    assert 5 + 2 * 10 - 1 <= given <= 5 + 2 * 10


def test_full_buckets_are_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MANY", 10)
    clock = Clock()
    buckets = Buckets(1, 1.0, clock)
    for index in range(30):
        buckets.take(str(index))
        clock.now += 0.5
    assert len(buckets._levels) <= 10
    assert buckets.take("29") > 0


def test_streams_are_counted_by_person_while_they_are_open(tmp_path: Path) -> None:
    guard = Guard(settings_for(tmp_path, streams=1))
    with guard.stream("ann"), guard.stream("bob"):
        with pytest.raises(Refusal, match="ann has 1 streams open") as refused, guard.stream("ann"):
            pass
        assert (refused.value.status, refused.value.retry_s) == (429, 5.0)
        assert guard.streams.total() == 2
    with guard.stream("ann"):
        assert dict(guard.streams) == {"ann": 1}


Open = Callable[..., TestClient]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Makes clients of an application with its settings, with Ann's token."""
    clients: list[TestClient] = []

    def make(**settings: Any) -> TestClient:
        parts = parts_for(tmp_path, **settings)
        client = TestClient(make_app(parts), headers={"Authorization": f"Bearer {parts.tokens.create('ann')}"})
        clients.append(client.__enter__())
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)


def refused(answer: Any) -> int:
    """Seconds to wait by a refusal, which must be a whole problem document."""
    assert answer.status_code == 429, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"what", "where", "rule", "fix"} <= answer.json().keys()
    return int(answer.headers["retry-after"])


def test_a_token_that_asks_too_often_is_told_when_to_come_again(opened: Open) -> None:
    client = opened(rate=0.1, burst=3)
    assert [client.get("/api/v1/searches").status_code for _ in range(3)] == [200, 200, 200]
    assert 9 <= refused(client.get("/api/v1/searches")) <= 10
    assert client.get("/healthz").status_code == 200


def test_wrong_tokens_from_an_address_are_slowed_and_who_was_let_in_before_is_not(opened: Open) -> None:
    client = opened(failures=3)
    assert client.get("/api/v1/searches").status_code == 200
    wrong = {"Authorization": "Bearer wrong"}
    assert [client.get("/api/v1/searches", headers=wrong).status_code for _ in range(3)] == [401, 401, 401]
    assert 19 <= refused(client.get("/api/v1/searches", headers=wrong)) <= 20
    assert client.get("/api/v1/searches").status_code == 200


def test_streams_past_the_cap_are_refused_and_ended_ones_do_not_count(opened: Open) -> None:
    client = opened(streams=0)
    client.post("/api/v1/searches", files={"archive": archive(study="one")})
    refused(client.get("/api/v1/searches/one/events"))
    client = opened(streams=1)
    client.post("/api/v1/searches/one/cancel")
    for _ in range(3):
        answer = client.get("/api/v1/searches/one/events")
        states = [json.loads(line[6:])["state"] for line in answer.text.splitlines() if line.startswith("data: ")]
        assert states == ["queued", "cancelled"]
