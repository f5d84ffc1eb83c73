"""The queue: what people ask of it, and servers that share it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from served import ADA, ANN, BOB, Clock, make_database, submission, submit

from autocompress.service import events
from autocompress.service.database import Database, Search
from autocompress.service.leases import Leases
from autocompress.service.problems import Refusal
from autocompress.service.queue import Queue, Wanted
from autocompress.service.states import State


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path, storage: str) -> Iterator[Database]:
    made = make_database(tmp_path, storage)
    yield made
    made.close()


@pytest.fixture
def queue(database: Database, clock: Clock) -> Queue:
    return Queue(database, clock)


def told(database: Database, search: Search) -> list[str]:
    """The states that a search was told to be in."""
    return [event.data["state"] for event in events.read(database, search.id, 0, 100) if event.kind == "state"]


def test_a_key_means_one_submission_of_one_person(queue: Queue) -> None:
    first, fresh = queue.submit(ANN, submission("one", key="k"))
    again, repeated = queue.submit(ANN, submission("one", key="k"))
    assert (fresh, repeated, again.id) == (True, False, first.id)
    assert queue.submit(BOB, submission("two", key="k"))[1]
    with pytest.raises(Refusal, match="a key means one submission") as refused:
        queue.submit(ANN, submission("three", key="k", content="1"))
    assert refused.value.status == 409


def test_a_name_in_use_is_refused_whoever_has_it(queue: Queue) -> None:
    queue.submit(ANN, submission("one"))
    for person in (ANN, BOB):
        with pytest.raises(Refusal, match="this name is in use") as refused:
            queue.submit(person, submission("one"))
        assert refused.value.status == 409


def test_people_see_their_own_searches_and_admins_all(queue: Queue) -> None:
    queue.submit(ANN, submission("one"))
    queue.submit(BOB, submission("two"))
    assert [row.study for row in queue.page(ANN, Wanted())[0]] == ["one"]
    assert {row.study for row in queue.page(ADA, Wanted())[0]} == {"one", "two"}
    with pytest.raises(Refusal) as refused:
        queue.find(BOB, "one")
    with pytest.raises(Refusal) as missing:
        queue.find(BOB, "none")
    assert str(refused.value).replace("one", "none") == str(missing.value)


def test_pages_hold_every_search_once_newest_first(queue: Queue, clock: Clock) -> None:
    for index in range(7):
        clock.now += index % 2  # some of the same moment
        queue.submit(ANN, submission(f"s{index}"))
    seen: list[str] = []
    after: str | None = None
    while True:
        rows, after = queue.page(ANN, Wanted(after=after, limit=3))
        assert len(rows) <= 3
        seen += [row.study for row in rows]
        if after is None:
            break
    assert sorted(seen) == [f"s{index}" for index in range(7)]
    moments = [(int(name[1:]) + 1) // 2 for name in seen]
    assert moments == sorted(moments, reverse=True)


def test_requests_change_states_and_tell_them(queue: Queue, database: Database, clock: Clock) -> None:
    row = submit(database, clock)
    for request in ("pause", "pause", "resume", "cancel", "cancel"):
        queue.ask(ANN, "one", request)
    assert told(database, row) == ["queued", "paused", "queued", "cancelled"]
    with pytest.raises(Refusal) as refused:
        queue.ask(BOB, "one", "cancel")
    assert refused.value.status == 404


def test_changed_settings_are_a_new_revision_and_another_priority_is_not(
    queue: Queue, database: Database, clock: Clock
) -> None:
    submit(database, clock)
    assert queue.patch(ANN, "one", {"priority": 3}).revision == 0
    found = queue.patch(ANN, "one", {"trials": 9})
    assert (found.revision, found.trials, found.priority) == (1, 9, 3)
    assert queue.patch(ANN, "one", {"trials": 9}).revision == 1


def test_servers_take_by_priority_then_age_and_no_more_than_they_have_room_for(
    database: Database, clock: Clock
) -> None:
    for study, priority in (("old", 0), ("new", 0), ("urgent", 5)):
        clock.now += 1
        submit(database, clock, study, priority=priority)
    one = Leases(database, "one", 10.0, clock)
    assert len(one.claim(2)) == 2
    assert {row.study for row in one.held()} == {"urgent", "old"}
    assert all(row.state == State.running for row in one.held())
    other = Leases(database, "other", 10.0, clock)
    other.claim(5)
    assert [row.study for row in other.held()] == ["new"]


def test_of_many_servers_one_takes_a_search(tmp_path: Path, database: Database, clock: Clock) -> None:
    for index in range(6):
        submit(database, clock, f"s{index}")
    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda name: Leases(database, str(name), 10.0, clock).claim(6), range(4)))
    everything = [identity for found in taken for identity in found]
    assert len(everything) == len(set(everything)) == 6


def test_a_dead_servers_search_is_taken_over_once_its_lease_ran_out(database: Database, clock: Clock) -> None:
    row = submit(database, clock)
    dead, heir = Leases(database, "dead", 10.0, clock), Leases(database, "heir", 10.0, clock)
    dead.claim(1)
    clock.now += 9
    dead.held()  # a sign of life
    clock.now += 9
    assert heir.claim(1) == []
    clock.now += 2
    assert heir.claim(1) == [row.id]
    assert told(database, row) == ["queued", "running"]


def test_what_a_server_writes_is_void_once_it_holds_a_search_no_more(database: Database, clock: Clock) -> None:
    row = submit(database, clock)
    late, heir = Leases(database, "late", 10.0, clock), Leases(database, "heir", 10.0, clock)
    late.claim(1)
    (held,) = late.held()
    clock.now += 11
    heir.claim(1)
    assert not late.write(held, run=7)
    assert not late.tell(held, "trial", {"trial": 0})
    assert not late.settle(held, State.finished)
    (mine,) = heir.held()
    assert (mine.run, mine.state) == (0, State.running)
    assert told(database, row) == ["queued", "running"]


def test_a_search_that_was_paused_meanwhile_is_not_settled_as_it_was(
    database: Database, queue: Queue, clock: Clock
) -> None:
    submit(database, clock)
    leases = Leases(database, "one", 10.0, clock)
    leases.claim(1)
    (held,) = leases.held()
    queue.ask(ANN, "one", "pause")
    assert not leases.settle(held, State.finished)
    (now,) = leases.held()
    assert now.state == State.pausing
    assert leases.settle(now, State.paused)
    assert leases.held() == []


def test_a_cancelled_search_stays_its_servers_until_that_lets_go(
    database: Database, queue: Queue, clock: Clock
) -> None:
    submit(database, clock)
    leases = Leases(database, "one", 10.0, clock)
    leases.claim(1)
    queue.ask(ANN, "one", "cancel")
    (held,) = leases.held()
    assert held.state == State.cancelled
    leases.settle(held, None)
    clock.now += 100
    assert Leases(database, "other", 10.0, clock).claim(1) == []


def test_events_are_numbered_without_gaps_by_many_writers(database: Database, queue: Queue, clock: Clock) -> None:
    row = submit(database, clock)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda index: queue.patch(ANN, "one", {"priority": index}), range(20)))
    numbers = [event.number for event in events.read(database, row.id, 0, 100)]
    assert numbers == list(range(1, 22))
    assert events.newest(database, [row.id]) == {row.id: 21}
    assert [event.number for event in events.read(database, row.id, 20, 100)] == [21]
    assert [event.number for event in events.read(database, row.id, 3, 5)] == [4, 5]
