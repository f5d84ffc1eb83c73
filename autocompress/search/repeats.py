"""Trials that fail for one reason again and again: a listener that says so, and when to give up."""

import re
from collections.abc import Callable, Iterable

from ..outcome import Failed
from .state import State

ENOUGH = 5  # trials that failed alike
HOPELESS = 8  # when nothing else came of the search
SHARE = 0.5  # of all trials that ended
COMPARED = 80  # letters of a reason, in which numbers do not count


class Repeats:
    """Notes once of each reason that most trials fail for, with what to take out of the search space."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note, self._said, self._seen = note, set[str](), set[int]()
        self._alike: dict[str, list[int]] = {}

    def update(self, state: State) -> None:
        """Take in the trials that ended since."""
        if len(state.records) == len(self._seen):
            return
        new = {n: state.records[n].outcome for n in sorted(state.records.keys() - self._seen)}
        self._seen |= new.keys()
        for kind, numbers in alike((n, o) for n, o in new.items() if isinstance(o, Failed)).items():
            same = self._alike.setdefault(kind, [])
            same += numbers
            if kind not in self._said and len(same) >= max(ENOUGH, SHARE * len(self._seen)):
                self._said.add(kind)
                last = new[numbers[-1]]
                assert isinstance(last, Failed)
                self._note(f"{len(same)} of {len(self._seen)} trials failed alike: {last.reason}: {_fix(last)}")


def hopeless(state: State) -> str:
    """Why a search is given up, with what to do: all that ended failed alike, and enough since it began or went on."""
    ended, failed = len(state.records), dict[int, Failed]()
    for number, record in state.records.items() if ended - state.begun_with >= HOPELESS else ():
        if not isinstance(record.outcome, Failed):
            return ""
        failed[number] = record.outcome
    if not failed or len(alike(failed.items())) > 1:
        return ""
    last = failed[max(failed)]
    return f"given up, as all {ended} trials failed alike: {last.reason}: {_fix(last)}"


def alike(failed: Iterable[tuple[int, Failed]]) -> dict[str, list[int]]:
    """Trials that failed, by the first words of their reasons."""
    found: dict[str, list[int]] = {}
    for number, outcome in failed:
        found.setdefault(re.sub(r"[0-9][0-9.e+-]*", "#", outcome.reason)[:COMPARED], []).append(number)
    return found


def _fix(outcome: Failed) -> str:
    step = re.match(r"step [0-9]+, ([^,]+)", outcome.doing)
    if step:
        return f"take {step[1]} out of the search space, or narrow its settings"
    if outcome.refused:
        return "narrow the search space to recipes that this model takes"
    return "mend this first: `autocompress show` prints what is behind it"
