"""Tokens: shown once, kept as salted hashes, and compared in constant time."""

import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select, update

from ..errors import ServiceError, unwritten
from .database import Database, Token

NAME = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}"
FORM = re.compile(r"act_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
DAY_S = 86_400.0


@dataclass(frozen=True)
class Person:
    """Who asks: by name, and whether they see what is others'."""

    name: str
    admin: bool = False

    def sees(self, owner: str) -> bool:
        """Whether what belongs to an owner is theirs to see and touch."""
        return self.admin or owner == self.name


class Tokens:
    """The tokens of a database."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock

    def create(self, name: str, admin: bool = False, days: float | None = 365.0) -> str:
        """A new token for a person, which is told nowhere else. Raises ServiceError for an impossible name."""
        if not re.fullmatch(NAME, name):
            raise ServiceError(f"name {name!r}: use at most 100 letters, digits, dots, dashes, _ and @")
        identity, secret, salt = secrets.token_hex(8), secrets.token_urlsafe(32), secrets.token_hex(16)
        now = self._clock()
        with self._database.transaction() as session:
            session.add(
                Token(
                    id=identity,
                    name=name,
                    salt=salt,
                    hash=_hash(salt, secret),
                    admin=admin,
                    created=now,
                    expires=None if days is None else now + days * DAY_S,
                )
            )
        return f"act_{identity}_{secret}"

    def list(self) -> list[Token]:
        """Every token, oldest first."""
        with self._database.transaction() as session:
            return list(session.scalars(select(Token).order_by(Token.created, Token.id)))

    def revoke(self, name: str) -> int:
        """End all tokens of a person, or the one of that id; returns how many. Raises ServiceError for none."""
        with self._database.transaction() as session:
            meant = (Token.name == name) | (Token.id == name)
            known = session.scalar(select(Token.id).where(meant).limit(1))
            if known is None:
                raise ServiceError(f"token {name!r}: there is none of that name or id: see `autocompress token list`")
            ended = (
                update(Token).where(meant, Token.revoked.is_(None)).values(revoked=self._clock()).returning(Token.id)
            )
            return len(session.scalars(ended).all())

    def person(self, token: str) -> Person | None:
        """Who a token stands for; None for one that is wrong, expired or revoked, all in the same time."""
        match = FORM.fullmatch(token)
        identity, secret = match.groups() if match else ("", "")
        with self._database.transaction() as session:
            found = session.get(Token, identity)
        salt, expected = (found.salt, found.hash) if found else ("", "0" * 64)
        right = hmac.compare_digest(_hash(salt, secret), expected)
        if found is None or not right or found.revoked is not None:
            return None
        if found.expires is not None and found.expires <= self._clock():
            return None
        return Person(found.name, found.admin)


def _hash(salt: str, secret: str) -> str:
    # One round is enough: secrets are 256 random bits, which nobody tries one by one.
    return hashlib.sha256(f"{salt}:{secret}".encode()).hexdigest()


def keep_admin_token(tokens: Tokens, path: Path) -> Path:
    """Make a token of an admin where the file holds none that is good, readable by its owner alone."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)  # people's code and models are below
        kept = path.read_text().strip() if path.is_file() else ""
        if not kept or tokens.person(kept) is None:
            new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(tokens.create("admin", admin=True, days=None) + "\n")
            new.replace(path)
    except OSError as error:
        raise unwritten(error, path) from error
    return path
