"""The states of a search, what may follow what, and what its server does next: pure functions."""

from enum import StrEnum

from .problems import Refusal


class State(StrEnum):
    """Where a search stands."""

    queued = "queued"
    running = "running"
    pausing = "pausing"
    paused = "paused"
    cancelled = "cancelled"
    finished = "finished"
    failed = "failed"


# From pausing back to running: whoever asks for a resume does not have to wait for the running trials. From running
# to queued: a server that stops hands its searches back.
FOLLOWS: dict[State, frozenset[State]] = {
    State.queued: frozenset({State.running, State.paused, State.cancelled}),
    State.running: frozenset({State.pausing, State.queued, State.cancelled, State.finished, State.failed}),
    State.pausing: frozenset({State.paused, State.running, State.cancelled, State.finished, State.failed}),
    State.paused: frozenset({State.queued, State.cancelled}),
    State.cancelled: frozenset(),
    State.finished: frozenset({State.queued}),
    State.failed: frozenset({State.queued}),
}
# What people ask for, and what it makes of each state; a request that changes nothing is fulfilled already.
REQUESTS: dict[str, dict[State, State]] = {
    "pause": {
        State.queued: State.paused,
        State.running: State.pausing,
        State.pausing: State.pausing,
        State.paused: State.paused,
    },
    "resume": {
        State.queued: State.queued,
        State.running: State.running,
        State.pausing: State.running,
        State.paused: State.queued,
        State.finished: State.queued,
        State.failed: State.queued,
    },
    "cancel": {
        State.queued: State.cancelled,
        State.running: State.cancelled,
        State.pausing: State.cancelled,
        State.paused: State.cancelled,
        State.cancelled: State.cancelled,
    },
}
ENDED = frozenset({State.paused, State.cancelled, State.finished, State.failed})  # nothing more happens by itself


def after(request: str, state: State, study: str) -> State:
    """The state that a request leads to. Raises Refusal (409)."""
    wanted = REQUESTS[request].get(state)
    if wanted is None:
        allowed = ", ".join(REQUESTS[request])
        raise Refusal(
            409,
            f"cannot {request} a search that is {state}",
            f"search {study!r}",
            f"only searches that are {allowed} can",
            "submit it under another study name" if state is State.cancelled else "resume it with more trials",
        )
    return wanted


class Deed(StrEnum):
    """What the server that holds a search does next."""

    nothing = "nothing"
    start = "start"
    interrupt = "interrupt"  # running trials are waited for
    terminate = "terminate"
    release = "release"
    pause = "pause"
    finish = "finish"
    fail = "fail"


ANSWERED = (0, 3, 4)  # codes of a search that ended with an answer: feasible, infeasible, nothing finished
INTERRUPTED = 130
AWAY = 75  # of a controller whose storage's server or whose cluster was away: EX_TEMPFAIL of sysexits.h


def next_deed(state: State, begun: bool, alive: bool, code: int | None, outdated: bool) -> Deed:
    """What to do with a search that this server holds.

    begun: its controller was started and how that ended was not told yet; alive: the controller runs; code: its exit
    code, None where it was killed; outdated: what it was started with was changed since.
    """
    if alive:
        drains = state is State.pausing or (state is State.running and outdated)
        return Deed.terminate if state is State.cancelled else Deed.interrupt if drains else Deed.nothing
    if state is State.cancelled:
        return Deed.release
    if begun and code in ANSWERED:
        return Deed.start if outdated and state is State.running else Deed.finish
    if begun and code not in (None, INTERRUPTED, AWAY):
        return Deed.fail
    return Deed.pause if state is State.pausing else Deed.start
