"""The service as a laptop has it: its API as functions, its problems as errors, its events as a stream."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from ..errors import ServiceError
from ..reading import TEXT_BYTES, read_file

ANSWER_S = 60.0
MAKING_S = 1000.0  # an export that was not made before
SILENCE_S = 60.0  # without even a comment, a stream is dead
AGAIN_S = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)  # waits before a lost stream is taken up again
TOKEN_FILE = Path("~/.config/autocompress/token")


@dataclass(frozen=True)
class Happened:
    """An event: its number within the search, its kind (state, trial, front, changed) and what it says."""

    number: int
    kind: str
    data: dict[str, Any]


def find_token() -> str:
    """The token in AUTOCOMPRESS_TOKEN, else in the file AUTOCOMPRESS_TOKEN_FILE, else in the usual one."""
    token = os.environ.get("AUTOCOMPRESS_TOKEN", "").strip()
    if token:
        return token
    path = Path(os.environ.get("AUTOCOMPRESS_TOKEN_FILE") or TOKEN_FILE).expanduser()
    try:
        return read_file(path, TEXT_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServiceError(
            f"token: {path} cannot be read ({getattr(error, 'strerror', None) or error}): set AUTOCOMPRESS_TOKEN, or "
            "AUTOCOMPRESS_TOKEN_FILE to the file that `autocompress serve` named"
        ) from None


class Client:
    """A server's API for one person; every method raises ServiceError with what the server says."""

    def __init__(self, url: str, token: str, transport: httpx2.BaseTransport | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise ServiceError(f"server {url!r}: is no URL: write http://HOST:PORT or https://HOST")
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"}
        self._http = httpx2.Client(
            base_url=f"{self.url}/api/v1", headers=headers, timeout=ANSWER_S, transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def submit(self, archive: bytes | None, form: Mapping[str, Any], key: str) -> dict[str, Any]:
        """Submit a search; sent again with the same key where no answer came."""
        fields = _fields(archive, form)
        for wait in (*AGAIN_S[:2], None):
            try:
                return self._json("POST", "/searches", files=fields, headers={"Idempotency-Key": key})
            except Unreached:
                if wait is None:
                    raise
                time.sleep(wait)
        raise AssertionError("unreachable")

    def plan(self, archive: bytes, form: Mapping[str, Any]) -> dict[str, Any]:
        """What a search would do: its config, the baseline, the limits and the time, and the same as lines."""
        return self._json("POST", "/plans", files=_fields(archive, form), timeout=MAKING_S)

    def searches(self) -> Iterator[dict[str, Any]]:
        """Every search that the person sees, newest first."""
        after: dict[str, str] = {}
        while True:
            page = self._json("GET", "/searches", params=after)
            yield from page["searches"]
            if page["next"] is None:
                return
            after = {"after": page["next"]}

    def get(self, study: str) -> dict[str, Any]:
        """One search."""
        return self._json("GET", f"/searches/{study}")

    def front(self, study: str) -> dict[str, Any]:
        """A search's front, with its limits and the name of its quality."""
        return self._json("GET", f"/searches/{study}/front")

    def trial(self, study: str, number: int) -> dict[str, Any]:
        """One trial, with the baseline."""
        return self._json("GET", f"/searches/{study}/trials/{number}")

    def explain(self, study: str, trial: int | None) -> dict[str, Any]:
        """Why a study came to its front, or why a trial is on it or not."""
        return self._json("GET", f"/searches/{study}/explain", params={} if trial is None else {"trial": trial})

    def figure(self, study: str, name: str, trial: int) -> bytes:
        """A picture of a trial."""
        return self._answer("GET", f"/searches/{study}/figures/{name}", params={"trial": trial}).content

    def logs(self, study: str, run: int | None) -> str:
        """What a run of a search's controller wrote, or the last one."""
        return self._answer("GET", f"/searches/{study}/logs", params={} if run is None else {"run": run}).text

    def ask(self, study: str, request: str) -> dict[str, Any]:
        """Pause, resume or cancel a search."""
        return self._json("POST", f"/searches/{study}/{request}")

    def change(self, study: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Change trials, timeout_s, workers or priority."""
        return self._json("PATCH", f"/searches/{study}", json=dict(values))

    def export(self, study: str, choice: Mapping[str, Any]) -> bytes:
        """The artifact directory of a trial as a .zip; choice is a trial or a pick."""
        params = {name: value for name, value in choice.items() if value is not None}
        answer = self._answer("GET", f"/searches/{study}/export", params=params, timeout=MAKING_S)
        if sha256(answer.content).hexdigest() != answer.headers.get("x-checksum-sha256"):
            raise ServiceError(f"{self.url}: the export arrived damaged: ask for it again")
        return answer.content

    def events(self, study: str, after: int = 0) -> Iterator[Happened]:
        """What happens to a search, from the first event past a number; a lost stream is taken up where it ended."""
        lost = 0
        while True:
            try:
                for event in self._stream(study, after):
                    after, lost = event.number, 0
                    yield event
                if self.get(study)["events"] <= after:
                    return
            except (Unreached, Refused) as error:
                if lost >= len(AGAIN_S) or (isinstance(error, Refused) and error.status != 503):
                    raise
            time.sleep(AGAIN_S[min(lost, len(AGAIN_S) - 1)])
            lost += 1

    def _stream(self, study: str, after: int) -> Iterator[Happened]:
        headers = {"Last-Event-ID": str(after), "Accept": "text/event-stream"}
        timeout = httpx2.Timeout(ANSWER_S, read=SILENCE_S)
        with (
            _reached(self.url),
            self._http.stream("GET", f"/searches/{study}/events", headers=headers, timeout=timeout) as answer,
        ):
            if answer.status_code != 200:
                answer.read()
                _check(answer)
            yield from parse_events(answer.iter_lines())

    def _json(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = self._answer(method, path, **more).json()
        return found

    def _answer(self, method: str, path: str, **more: Any) -> httpx2.Response:
        with _reached(self.url):
            answer = self._http.request(method, path, **more)
        _check(answer)
        return answer


def _fields(archive: bytes | None, form: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {name: (None, str(value)) for name, value in form.items() if value is not None}
    return fields if archive is None else {**fields, "archive": ("project.tar.gz", archive, "application/gzip")}


def parse_events(lines: Iterator[str]) -> Iterator[Happened]:
    """The events that the lines of a stream tell; comments, and what a cut left unfinished, tell none."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        else:
            if "data" in fields:
                yield Happened(int(fields["id"]), fields["event"], json.loads(fields["data"]))
            fields = {}


class Unreached(ServiceError):
    """A server that gave no answer."""


@contextmanager
def _reached(url: str) -> Iterator[None]:
    try:
        yield
    except httpx2.TransportError as error:
        reason = str(error) or type(error).__name__
        raise Unreached(
            f"{url}: cannot be reached: {reason}: check --server, or start `autocompress serve` there"
        ) from error


class Refused(ServiceError):
    """What a server refuses, with the status of its answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def _check(answer: httpx2.Response) -> None:
    """Raise Refused, with what the problem document says, for an answer that is no success."""
    if answer.is_success:
        return
    try:
        detail = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"{answer.url.host}: answered {answer.status_code}: check --server: is it autocompress?"
    raise Refused(answer.status_code, detail)
