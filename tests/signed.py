"""The pages of a server in this process, as browsers of several people ask for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from served import ADA, ANN, BOB, parts_for, submission
from starlette.testclient import TestClient

from autocompress.service import events
from autocompress.service.app import make_app
from autocompress.service.database import Search
from autocompress.service.observer import Observer
from autocompress.service.page.signing import COOKIE
from autocompress.service.parts import Parts
from autocompress.service.tokens import Person, Tokens

HERE = "http://testserver"
LOOK = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}


class Site:
    """The pages, asked for by people who are signed in."""

    def __init__(self, parts: Parts, client: TestClient) -> None:
        self.parts, self.client = parts, client
        self.tokens = {person.name: parts.tokens.create(person.name, person.admin) for person in (ANN, BOB, ADA)}

    def ask(self, method: str, path: str, who: str | None = "ann", token: str | None = None, **more: Any) -> Any:
        """A request of a browser whose cookie holds a person's token, or any text; nothing is followed."""
        headers = {**LOOK, **more.pop("headers", {})}
        value = self.tokens[who] if token is None and who else token
        if value is not None:
            headers["Cookie"] = f"{COOKIE}={value}"
        self.client.cookies = httpx2.Cookies()
        return self.client.request(method, path, headers=headers, follow_redirects=False, **more)

    def text(self, path: str, who: str = "ann") -> str:
        """A page that is there."""
        found = self.ask("GET", path, who)
        assert found.status_code == 200, found.text
        assert found.headers["content-type"] == "text/html; charset=utf-8"
        return str(found.text)

    def bad_tokens(self) -> list[str | None]:
        """None, a wrong one, an expired one and a revoked one."""
        tokens = self.parts.tokens
        expired, revoked = Tokens(self.parts.database, lambda: 0.0).create("ann"), tokens.create("carl")
        tokens.revoke("carl")
        return [None, "", "act_wrong", self.tokens["ann"][:-1], expired, revoked]

    def search(self, study: str, person: Person = ANN, tell: bool = False, **changes: Any) -> Search:
        """A search in the queue; tell: with the events of what its study holds."""
        found, _ = self.parts.queue.submit(person, submission(study))
        with self.parts.database.transaction() as session:
            if tell:
                for kind, data in Observer(self.parts.studies, study, set()).look():
                    events.append(session, found.id, kind, data)
            row = session.get(Search, found.id)
            assert row is not None
            for name, value in changes.items():
                setattr(row, name, value)
        return found


@contextmanager
def site(folder: Path, **changes: Any) -> Iterator[Site]:
    """The pages of a server whose storage is in a folder."""
    parts = parts_for(folder, failures=10_000, **changes)
    with TestClient(make_app(parts), HERE, raise_server_exceptions=False) as client:
        yield Site(parts, client)
    parts.database.close()
