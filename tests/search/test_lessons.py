"""What ended trials teach: how far facts were off, and how trainings went on from each rung."""

import pytest

from autocompress.front import find_front
from autocompress.outcome import Completed, Failed, Infeasible, Metrics, Outcome, Stopped
from autocompress.search.lessons import ENOUGH, LAST, LEAST, Lessons, facts_off
from autocompress.search.records import Record

OBJECTIVES = ("size_bytes", "accuracy")


def measured(size: float, fact: float, **rungs: float) -> Completed:
    metrics = {"size_bytes": size, "accuracy": 0.9, "latency_ms": 1.0}
    stood: dict[str, Metrics] = {name: {"accuracy": value} for name, value in rungs.items()}
    return Completed(metrics, {}, facts={"size_bytes": fact}, rungs=stood)


def records(*outcomes: Outcome) -> dict[int, Record]:
    return {at: Record(at, {"version": 1, "steps": []}, outcome, 1, None, 0, 0) for at, outcome in enumerate(outcomes)}


def lessons(*outcomes: Outcome) -> Lessons:
    found = Lessons(OBJECTIVES, ())
    found.take(records(*outcomes))
    return found


def test_facts_are_trusted_as_far_as_they_were_right() -> None:
    offs = [0.01 * at for at in range(ENOUGH)]
    assert lessons(*(measured(1000 * (1 + off), 1000) for off in offs[:-1])).tolerance() == {}
    # The quantile at 0.95 of 0, 0.01, ..., 0.07 lies at 0.95 x 7 steps.
    assert lessons(*(measured(1000 * (1 + off), 1000) for off in offs)).tolerance() == {
        "size_bytes": pytest.approx(0.0665)
    }
    assert lessons(*[measured(1000, 1000)] * ENOUGH).tolerance() == {"size_bytes": LEAST}
    assert facts_off([measured(1000 * (1 + off), 1000) for off in offs]) == {"size_bytes": pytest.approx(0.0665)}
    assert facts_off([measured(1000, 1000)] * ENOUGH) == {"size_bytes": 0}
    assert facts_off([measured(1000, 1000)] * (ENOUGH - 1)) == {}


def test_each_trial_is_learned_from_once_and_only_where_it_was_measured_in_full() -> None:
    rejected = Infeasible({"size_bytes": 9e9}, {"size": 1.0}, "before any training", facts={"size_bytes": 1.0})
    stopped = Stopped("behind", rungs={"a third": {"accuracy": 0.1}})
    rows = records(measured(10, 10, third=0.8), rejected, stopped, Failed("no"), measured(10, 10, third=0.7))
    found = Lessons(OBJECTIVES, ())
    for _ in range(3):
        found.take(rows)
    front = find_front({0: measured(10, 10)}, OBJECTIVES)
    peers = found.peers(front, rows)
    assert [there["accuracy"] for there, _ in peers.passed["third"]] == [0.8, 0.7]
    assert peers.passed.keys() == {"third"}
    assert [member["size_bytes"] for member in peers.front] == [10]
    assert peers.objectives == OBJECTIVES


def test_the_last_trials_are_learned_from() -> None:
    found = lessons(*(measured(10, 10, third=at / 1000) for at in range(LAST + 50)))
    passed = found.peers(find_front({}, OBJECTIVES), {}).passed["third"]
    assert len(passed) == LAST
    assert passed[0][0] == {"accuracy": 0.05}
