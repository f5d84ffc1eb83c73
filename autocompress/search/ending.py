"""Why a search ends before its trials and its time are used up."""

from ..outcome import Completed, Limit
from .goal import met
from .repeats import hopeless
from .state import State


def reason_to_end(state: State, goal: tuple[Limit, ...]) -> str:
    """Why no more trials are to be asked for, in a sentence; empty where the search goes on."""
    number = reached_by(state, goal)
    return f"goal reached by trial {number}" if number is not None else hopeless(state)


def reached_by(state: State, goal: tuple[Limit, ...]) -> int | None:
    """The first trial within the budget that meets every term of the goal."""
    for number, record in state.records.items() if goal else ():
        if isinstance(record.outcome, Completed) and met(goal, record.outcome.metrics):
            return number
    return None


def how_it_ended(state: State, goal: tuple[Limit, ...]) -> str:
    """The reason that ended a search, held against the front's last measurements; empty where none did."""
    now = reason_to_end(state, goal)
    if not state.ended or now:
        return now
    return f"{state.ended}, but no more by the measurements taken with nothing else running: --resume goes on"
