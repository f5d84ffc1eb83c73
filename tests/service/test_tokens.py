"""Tokens: who is let in, and what is kept of them."""

import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from served import Clock, make_database

from autocompress.errors import ServiceError
from autocompress.service.tokens import Person, Tokens, keep_admin_token


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(tmp_path: Path, storage: str, clock: Clock) -> Iterator[Tokens]:
    database = make_database(tmp_path, storage)
    yield Tokens(database, clock)
    database.close()


def test_a_token_stands_for_its_person(tokens: Tokens) -> None:
    assert tokens.person(tokens.create("ann")) == Person("ann")
    assert tokens.person(tokens.create("ada", admin=True)) == Person("ada", admin=True)


def test_no_token_is_kept(tokens: Tokens, tmp_path: Path) -> None:
    made = tokens.create("ann")
    (one,) = tokens.list()
    assert made[-43:] not in str(vars(one))
    assert one.hash not in made
    for file in tmp_path.glob("*.db"):
        assert made[-43:].encode() not in file.read_bytes()


def test_equal_secrets_would_have_different_hashes(tokens: Tokens) -> None:
    tokens.create("ann"), tokens.create("ann")
    one, other = tokens.list()
    assert one.salt != other.salt


WRONG = [
    lambda token: token[:-1] + ("A" if token[-1] != "A" else "B"),
    lambda token: "",
    lambda token: "x" * 9999,
    lambda token: token.replace("act_", "acx_"),
    lambda token: f"act_{'0' * 16}_{token[-43:]}",
]


@pytest.mark.parametrize("change", WRONG)
def test_a_wrong_token_is_nobodys(tokens: Tokens, change: Callable[[str], str]) -> None:
    assert tokens.person(change(tokens.create("ann"))) is None


def test_a_token_expires(tokens: Tokens, clock: Clock) -> None:
    made = tokens.create("ann", days=1.0)
    clock.now += 86_399.0
    assert tokens.person(made) == Person("ann")
    clock.now += 1.0
    assert tokens.person(made) is None


def test_revoking_a_name_ends_all_of_its_tokens_and_an_id_one(tokens: Tokens, clock: Clock) -> None:
    first = tokens.create("ann")
    clock.now += 1
    second, other = tokens.create("ann"), tokens.create("bob")
    assert tokens.revoke(tokens.list()[0].id) == 1
    assert [tokens.person(made) is None for made in (first, second, other)] == [True, False, False]
    assert tokens.revoke("ann") == 1
    assert tokens.person(second) is None
    with pytest.raises(ServiceError, match="there is none of that name or id"):
        tokens.revoke("carl")


@pytest.mark.parametrize("name", ["", "a b", "a" * 101, "-a", "a\n"])
def test_a_name_is_plain(tokens: Tokens, name: str) -> None:
    with pytest.raises(ServiceError, match="use at most 100"):
        tokens.create(name)


def test_the_first_token_is_an_admins_and_its_owners_alone(tokens: Tokens, tmp_path: Path) -> None:
    path = keep_admin_token(tokens, tmp_path / "service" / "admin.token")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    made = path.read_text()
    assert tokens.person(made.strip()) == Person("admin", admin=True)
    assert keep_admin_token(tokens, path).read_text() == made
    tokens.revoke("admin")
    assert keep_admin_token(tokens, path).read_text() != made
