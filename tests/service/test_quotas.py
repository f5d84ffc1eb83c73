"""Quotas and turns: pure rules, a queue of many days against a clock, and servers that share it."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from served import ANN, BOB, Clock, make_database, submission

from autocompress.errors import ServiceError
from autocompress.service import events
from autocompress.service.allowances import Allowances
from autocompress.service.database import Database, Search
from autocompress.service.leases import Leases
from autocompress.service.queue import Queue
from autocompress.service.quotas import DAY_S, Quota, Standing, Waiting, blocked, next_in_turn, spent, workers
from autocompress.service.states import State
from autocompress.service.tokens import Person


def waiting(identity: str, owner: str, created: float = 0.0, priority: int = 0) -> Waiting:
    return Waiting(identity, owner, priority, created)


def test_what_is_set_for_a_person_stands_before_what_is_usual() -> None:
    assert Quota(3).or_else(Quota(1, 2, 60.0)) == Quota(3, 2, 60.0)
    assert Quota(0, 0, 0.0).or_else(Quota(1, 2, 60.0)) == Quota(0, 0, 0.0)


@pytest.mark.parametrize(("wanted", "most", "expected"), [(4, 2, 2), (1, 2, 1), (4, None, 4), (None, 2, 2),
                                                          (None, None, None)])  # fmt: skip
def test_no_search_gets_more_workers_than_its_owner_may_have(
    wanted: int | None, most: int | None, expected: int | None
) -> None:
    assert workers(wanted, Quota(workers=most)) == expected


def test_why_a_search_waits_is_said_with_the_numbers() -> None:
    standing = Standing(Quota(2, None, 3600.0), running=2, used_s=3600.0)
    assert blocked("ann", standing, 0.0) == (
        "ann runs 2 of at most 2 searches at once: it waits for one of them to end"
    )
    assert blocked("ann", replace(standing, running=1), DAY_S - 1) == (
        "ann has used up today's 3,600 seconds of trials: it goes on at 1970-01-02 00:00 UTC"
    )
    assert spent("ann", replace(standing, used_s=3599.9), 0.0) is None
    assert blocked("ann", Standing(running=99, used_s=1e9), 0.0) is None


def test_priority_is_first_then_who_has_least_then_age() -> None:
    queue = [waiting("a1", "ann", 1), waiting("a2", "ann", 2), waiting("b1", "bob", 3), waiting("c1", "carl", 4, 5)]
    has = {"ann": Standing(), "bob": Standing(used_s=9.0), "carl": Standing(running=3)}
    assert [search.id for search in next_in_turn(queue, has, 0.0, 9)] == ["c1", "a1", "b1", "a2"]
    has["ann"] = Standing(running=1)
    assert [search.id for search in next_in_turn(queue, has, 0.0, 2)] == ["c1", "b1"]
    has["bob"] = Standing(Quota(0))
    assert [search.id for search in next_in_turn(queue, has, 0.0, 9)] == ["c1", "a1", "a2"]


def test_of_many_days_every_person_gets_a_fair_share_and_no_more_than_their_quota() -> None:
    """One long queue of Ann's before a few of others: a simulated server with four places, trials of a minute."""
    quotas = {"ann": Quota(), "bob": Quota(searches=1), "carl": Quota(trial_seconds=3000.0)}
    queue = [waiting(f"{owner}{index}", owner, index) for owner in quotas for index in range(40)]
    left = {search.id: 30 for search in queue}  # trials of each
    running: list[Waiting] = []
    used: Counter[tuple[str, int]] = Counter()
    now, ended = 0.0, list[str]()
    while queue or running:
        today = int(now // DAY_S)
        has = {
            owner: Standing(quota, sum(s.owner == owner for s in running), float(used[owner, today]))
            for owner, quota in quotas.items()
        }
        running += (taken := next_in_turn(queue, has, now, 4 - len(running)))
        queue = [search for search in queue if search not in taken]
        # Bob's one place is his from the first to the last of his searches, though all of Ann's came before them.
        assert sum(search.owner == "bob" for search in running) == (ended.count("bob") < 40)
        assert running or spent("carl", has["carl"], now)
        now += 60.0
        for search in list(running):
            left[search.id] -= 1
            used[search.owner, today] += 60
            over = spent(search.owner, replace(has[search.owner], used_s=float(used[search.owner, today])), now)
            if left[search.id] == 0 or over:
                running.remove(search)
                queue += [search] if left[search.id] else []
                ended += [] if left[search.id] else [search.owner]
    # Carl's 40 searches of 1,800 s end within his 3,000 s a day, give or take a trial for each that runs.
    assert all(seconds <= 3000 + 4 * 60 for (owner, _), seconds in used.items() if owner == "carl")
    assert sum(seconds for (owner, _), seconds in used.items() if owner == "carl") == 40 * 30 * 60
    assert ended.count("ann") == ended.count("bob") == ended.count("carl") == 40


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return make_database(tmp_path)


def submit(database: Database, clock: Clock, person: Person, *studies: str) -> None:
    for study in studies:
        clock.now += 1
        Queue(database, clock).submit(person, submission(study))


def row(database: Database, study: str) -> Search:
    with database.transaction() as session:
        return next(found for found in session.query(Search).all() if found.study == study)


def test_a_person_runs_as_many_searches_as_they_may_and_it_is_said_why_the_others_wait(
    database: Database, clock: Clock
) -> None:
    submit(database, clock, ANN, "a1", "a2", "a3")
    submit(database, clock, BOB, "b1")
    leases = Leases(database, "one", 10.0, clock, Quota(searches=1))
    leases.claim(9)
    assert {held.study for held in leases.held()} == {"a1", "b1"}
    leases.claim(0)
    assert row(database, "a2").reason == "ann runs 1 of at most 1 searches at once: it waits for one of them to end"
    (first,) = [held for held in leases.held() if held.study == "a1"]
    leases.settle(first, State.finished)
    leases.claim(9)
    assert (row(database, "a2").state, row(database, "a2").reason) == (State.running, None)
    Allowances(database, Quota(searches=1), clock).give("ann", Quota(searches=2))
    leases.claim(9)
    assert row(database, "a3").state == State.running


def test_many_servers_together_begin_no_more_than_a_person_may_have(database: Database, clock: Clock) -> None:
    submit(database, clock, ANN, *(f"s{index}" for index in range(8)))
    servers = [Leases(database, str(name), 10.0, clock, Quota(searches=3)) for name in range(4)]
    with ThreadPoolExecutor(4) as pool:
        taken = [identity for found in pool.map(lambda server: server.claim(2), servers) for identity in found]
    assert 1 <= len(taken) <= 3  # they may all have been after the same ones
    for server in servers:
        taken += server.claim(2)
    assert len(taken) == len(set(taken)) == 3


def test_turns_go_round_among_people(database: Database, clock: Clock) -> None:
    submit(database, clock, ANN, *(f"a{index}" for index in range(4)))
    submit(database, clock, BOB, *(f"b{index}" for index in range(4)))
    leases, order = Leases(database, "one", 10.0, clock), []
    for _ in range(8):
        clock.now += 1
        leases.claim(1)
        (held,) = leases.held()
        order.append(held.study)
        leases.settle(held, State.finished)
    assert [name[0] for name in order] == ["a", "b"] * 4
    assert all(one[1] <= other[1] for one, other in pairwise(order))


def test_seconds_are_used_up_and_searches_go_on_the_next_day(database: Database, clock: Clock) -> None:
    submit(database, clock, ANN, "one", "two")
    leases = Leases(database, "one", 1e9, clock, Quota(searches=1, trial_seconds=100.0))
    leases.claim(9)
    (held,) = leases.held()
    for number, seconds in enumerate((60.0, 50.0)):
        leases.suspend([held])
        assert held.state == State.running
        leases.tell(held, "trial", {"trial": number, "seconds": seconds})
    leases.suspend([held])
    assert held.state == State.pausing
    leases.settle(held, State.paused)
    why = "ann has used up today's 100 seconds of trials: it goes on at 1970-01-02 00:00 UTC"
    leases.wake()
    leases.claim(9)
    paused, queued = row(database, "one"), row(database, "two")
    assert (paused.state, paused.reason, paused.resumes) == (State.paused, why, DAY_S)
    assert (queued.state, queued.reason) == (State.queued, why)
    clock.now = DAY_S
    leases.wake()
    leases.claim(1)
    assert row(database, "one").state == State.running
    told = [event.data for event in events.read(database, paused.id, 0, 100) if event.kind == "state"]
    assert [data["state"] for data in told] == ["queued", "running", "pausing", "paused", "queued", "running"]
    assert told[2]["reason"] == why


def test_a_larger_quota_lets_it_go_on_at_once_and_a_pause_that_was_asked_for_stays(
    database: Database, clock: Clock
) -> None:
    submit(database, clock, ANN, "one", "two")
    leases = Leases(database, "one", 1e9, clock, Quota(trial_seconds=100.0))
    leases.claim(2)
    leases.tell(leases.held()[0], "trial", {"trial": 0, "seconds": 100.0})
    leases.suspend(leases.held())
    for held in leases.held():
        leases.settle(held, State.paused)
    Queue(database, clock).ask(ANN, "two", "pause")
    Allowances(database, Quota(), clock).give("ann", Quota(trial_seconds=200.0))
    leases.wake()
    assert [row(database, study).state for study in ("one", "two")] == [State.queued, State.paused]
    assert row(database, "two").reason is None


def test_a_trial_is_counted_once_and_not_by_who_holds_the_search_no_more(database: Database, clock: Clock) -> None:
    submit(database, clock, ANN, "one")
    late, heir = (Leases(database, name, 10.0, clock) for name in ("late", "heir"))
    late.claim(1)
    (held,) = late.held()
    clock.now += 11
    heir.claim(1)
    assert not late.tell(held, "trial", {"trial": 0, "seconds": 5.0})
    assert heir.tell(held, "trial", {"trial": 0, "seconds": 5.0})
    allowances = Allowances(database, Quota(), clock)
    assert allowances.standing("ann").used_s == 5.0
    clock.now += DAY_S
    assert allowances.standing("ann").used_s == 0.0


def test_quotas_are_given_changed_and_taken_back(database: Database, clock: Clock) -> None:
    allowances = Allowances(database, Quota(1, 2, 3.0), clock)
    assert allowances.own("ann") == Quota()
    assert allowances.give("ann", Quota(searches=5)) == Quota(searches=5)
    assert allowances.give("ann", Quota(workers=4)) == Quota(5, 4)
    assert allowances.standing("ann").quota == Quota(5, 4, 3.0)
    assert allowances.reset("ann") == Quota()
    with pytest.raises(ServiceError, match="--trial-seconds -1: a quota is 0 or more"):
        allowances.give("ann", Quota(trial_seconds=-1))
