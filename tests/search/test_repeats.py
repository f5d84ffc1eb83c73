"""A reason that comes again and again is said once."""

from types import SimpleNamespace
from typing import Any

from autocompress.outcome import Completed, Failed, Outcome
from autocompress.search.repeats import Repeats

DONE = Completed({"size_bytes": 1.0}, {})


def state(outcomes: list[Outcome]) -> Any:
    return SimpleNamespace(
        records={number: SimpleNamespace(outcome=outcome) for number, outcome in enumerate(outcomes)}
    )


def said(*outcomes: Outcome) -> list[str]:
    """What is noted while trials end one after another."""
    notes: list[str] = []
    repeats = Repeats(notes.append)
    for count in range(1, len(outcomes) + 1):
        repeats.update(state(list(outcomes[:count])))
        repeats.update(state(list(outcomes[:count])))
    return notes


def refused(energy: float) -> Failed:
    return Failed(f"svd with energy {energy} is odd: lower it", refused=True, doing="step 2, svd, deciding")


def test_the_fifth_trial_that_fails_alike_is_noted_once_with_the_way_out() -> None:
    notes = said(*(refused(0.5 + number / 20) for number in range(8)))
    assert notes == [
        "5 of 5 trials failed alike: svd with energy 0.7 is odd: lower it: take svd out of the search space, or narrow "
        "its settings"
    ]


def test_four_failures_or_a_minority_of_trials_are_not_noted() -> None:
    assert said(*[refused(0.5)] * 4) == []
    assert said(*[DONE] * 6, *[refused(0.5)] * 5) == []
    assert len(said(*[DONE] * 6, *[refused(0.5)] * 6)) == 1


def test_unlike_reasons_do_not_add_up() -> None:
    assert said(*(Failed(f"{word} is broken") for word in ("a", "b", "c", "d", "e", "f"))) == []


def test_a_failure_outside_of_any_step_is_to_be_mended() -> None:
    (note,) = said(*[Failed("RuntimeError: no such file")] * 5)
    assert note.endswith(": mend this first: `autocompress show` prints what is behind it")
