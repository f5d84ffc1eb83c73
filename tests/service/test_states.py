"""What may follow what, and what a server does next."""

from itertools import product

import pytest

from autocompress.service.problems import Refusal
from autocompress.service.states import ENDED, FOLLOWS, REQUESTS, Deed, State, after, next_deed

LIVE = (State.running, State.pausing)


def test_every_request_leads_only_where_the_table_allows() -> None:
    for moves in REQUESTS.values():
        assert all(new is old or new in FOLLOWS[old] for old, new in moves.items())


def test_nothing_follows_a_cancelled_search() -> None:
    assert FOLLOWS[State.cancelled] == frozenset()
    for request in ("pause", "resume"):
        with pytest.raises(Refusal, match="another study name") as refused:
            after(request, State.cancelled, "one")
        assert refused.value.status == 409


def test_what_has_ended_can_be_resumed_and_not_paused() -> None:
    for state in ENDED - {State.cancelled}:
        assert after("resume", state, "one") is State.queued
    with pytest.raises(Refusal, match="cannot pause a search that is finished"):
        after("pause", State.finished, "one")


def deed(state: State, **changes: object) -> Deed:
    known = {"begun": True, "alive": False, "code": None, "outdated": False, **changes}
    return next_deed(state, known["begun"], known["alive"], known["code"], known["outdated"])  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [None, 0, 1, 2, 3, 4, 130])
@pytest.mark.parametrize("state", [*LIVE, State.cancelled])
def test_no_controller_is_started_beside_one_that_lives(state: State, code: int | None) -> None:
    for begun, outdated in product((True, False), repeat=2):
        found = deed(state, begun=begun, alive=True, code=code, outdated=outdated)
        assert found in (Deed.nothing, Deed.interrupt, Deed.terminate)


def test_a_killed_controller_is_started_again_unless_its_search_was_to_pause() -> None:
    assert deed(State.running) is Deed.start
    assert deed(State.pausing) is Deed.pause
    assert deed(State.cancelled) is Deed.release


@pytest.mark.parametrize(("code", "expected"), [(0, Deed.finish), (3, Deed.finish), (4, Deed.finish), (2, Deed.fail),
                                                (1, Deed.fail), (130, Deed.start), (75, Deed.start)])  # fmt: skip
def test_exit_codes_of_a_running_search(code: int, expected: Deed) -> None:
    assert deed(State.running, code=code) is expected


def test_the_code_of_an_earlier_run_ends_no_search_that_was_resumed() -> None:
    assert deed(State.running, begun=False, code=0) is Deed.start


def test_new_settings_drain_a_controller_and_start_it_again() -> None:
    assert deed(State.running, alive=True, outdated=True) is Deed.interrupt
    assert deed(State.running, code=130, outdated=True) is Deed.start
    assert deed(State.running, code=0, outdated=True) is Deed.start


def test_a_search_that_is_to_pause_drains_and_then_is_paused() -> None:
    assert deed(State.pausing, alive=True) is Deed.interrupt
    assert deed(State.pausing, code=130) is Deed.pause
    assert deed(State.pausing, code=75) is Deed.pause
    assert deed(State.pausing, code=0) is Deed.finish
