"""A trial that failed shows what was being done, and the traceback; one that was stopped, where it stood."""

from typing import Any

from autocompress.terminal.details import trial_lines


def document(**changes: Any) -> dict[str, Any]:
    plain = {"study": "s", "trial": 3, "outcome": "failed", "reason": "svd is odd: leave it out", "doing": ""}
    rest = {"details": "", "violations": {}, "seconds": {}, "carried_out": [], "decisions": [], "metrics": {}}
    return {**plain, **rest, **changes}


def test_what_was_being_done_stands_once_before_the_traceback() -> None:
    doing = "step 2, svd, deciding"
    lines = trial_lines(document(doing=doing, details="Traceback:\n  File 'a.py'\nKeyError: 1\n"), {})
    assert lines[:6] == [
        "trial 3 of s: failed",
        "  svd is odd: leave it out",
        "  while doing this: step 2, svd, deciding",
        "  | Traceback:",
        "  |   File 'a.py'",
        "  | KeyError: 1",
    ]
    said = trial_lines(document(doing=doing, reason=f"{doing}: KeyError: 1"), {})
    assert said[1] == "  step 2, svd, deciding: KeyError: 1"
    assert not any("while doing this" in line for line in said)


def test_a_stopped_trial_shows_where_it_stood_and_no_measurements() -> None:
    rungs = {"a ninth of the last training": {"accuracy": 0.81}, "a third of the last training": {"accuracy": 0.8333}}
    lines = trial_lines(document(outcome="stopped", reason="it would be past a limit", rungs=rungs), {})
    assert "after a ninth of the last training: accuracy 0.81" in lines
    assert "after a third of the last training: accuracy 0.8333" in lines
    assert not any("measured on the exported file" in line for line in lines)
