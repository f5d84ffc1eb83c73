"""The client: streams that are cut, servers that are away, and what problems become."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from autocompress.errors import ServiceError
from autocompress.service import client as module
from autocompress.service.client import Client, Happened, find_token, parse_events


def event(number: int) -> str:
    return f'event: trial\ndata: {{"trial": {number - 1}}}\nid: {number}\n\n'


class Cut(httpx2.SyncByteStream):
    """A body that is cut off after what it holds."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __iter__(self) -> Iterator[bytes]:
        yield self._text.encode()
        raise httpx2.ReadError("cut off")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)


def test_comments_and_unfinished_events_tell_nothing() -> None:
    lines = (": ping\n\n" + event(1) + "retry: 5\n\n" + event(2) + "event: trial\nid: 3").splitlines()
    assert list(parse_events(iter(lines))) == [Happened(1, "trial", {"trial": 0}), Happened(2, "trial", {"trial": 1})]


def test_a_stream_that_is_cut_goes_on_where_it_ended() -> None:
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        if not request.url.path.endswith("/events"):
            return httpx2.Response(200, json={"events": 4})
        asked.append(request.headers["last-event-id"])
        match len(asked):
            case 1:
                return httpx2.Response(200, stream=Cut(event(1) + event(2) + "event: trial\nid: 3\n"))
            case 2:
                raise httpx2.ConnectError("refused")
            case 3:
                return httpx2.Response(503, json={"detail": "away"})
            case _:
                return httpx2.Response(200, text=event(3) + event(4))

    with Client("http://here", "t", httpx2.MockTransport(answer)) as client:
        assert [found.number for found in client.events("one")] == [1, 2, 3, 4]
    assert asked == ["0", "2", "2", "2"]


def test_a_server_that_stays_away_is_an_error_in_the_end() -> None:
    def away(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    with Client("http://here", "t", httpx2.MockTransport(away)) as client:
        for call in (
            lambda: list(client.events("one")),
            lambda: client.submit(b"", {}, "k"),
            lambda: client.get("one"),
        ):
            with pytest.raises(ServiceError, match="http://here: cannot be reached: refused: check --server"):
                call()


def test_a_submission_without_an_answer_is_sent_again_with_its_key() -> None:
    keys: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        keys.append(request.headers["idempotency-key"])
        if len(keys) == 1:
            raise httpx2.ReadTimeout("no answer")
        return httpx2.Response(200, json={"study": "one"})

    with Client("http://here", "t", httpx2.MockTransport(answer)) as client:
        assert client.submit(b"1", {"trials": 3, "workers": None}, "k") == {"study": "one"}
    assert keys == ["k", "k"]


def test_a_problem_is_an_error_and_so_is_what_is_no_problem() -> None:
    answers = [httpx2.Response(404, json={"detail": "search 'one': none"}), httpx2.Response(502, text="<html>")]
    with Client("http://here", "t", httpx2.MockTransport(lambda request: answers.pop(0))) as client:
        with pytest.raises(ServiceError, match="search 'one': none"):
            client.get("one")
        with pytest.raises(ServiceError, match="here: answered 502: check --server"):
            client.get("one")


def test_an_export_that_arrives_damaged_is_refused() -> None:
    damaged = httpx2.MockTransport(
        lambda request: httpx2.Response(200, content=b"1", headers={"x-checksum-sha256": "0"})
    )
    with Client("http://here", "t", damaged) as client, pytest.raises(ServiceError, match="arrived damaged"):
        client.export("one", {"trial": 1})


def test_the_token_comes_from_environment_or_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTOCOMPRESS_TOKEN", raising=False)
    monkeypatch.setenv("AUTOCOMPRESS_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(ServiceError, match="set AUTOCOMPRESS_TOKEN"):
        find_token()
    (tmp_path / "token").write_text("two\n")
    assert find_token() == "two"
    monkeypatch.setenv("AUTOCOMPRESS_TOKEN", "one")
    assert find_token() == "one"


def test_a_server_needs_a_url() -> None:
    with pytest.raises(ServiceError, match="write http://HOST:PORT"):
        Client("localhost:8000", "t")
