"""What is told of a study beside its numbers."""

from pathlib import Path

import pytest
from studies import BASE, metrics, studied

from autocompress.outcome import Completed
from autocompress.search.results import Results


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        (0.9, []),
        (0.9 - 1e-12, []),  # the same number, summed in another order
        (0.899, ["has accuracy 0.8990 on the test split, past the limit: at least 0.9000"]),
    ],
)
def test_who_is_past_a_limit_on_the_test_split_is_told(tmp_path: Path, kept: float, told: list[str]) -> None:
    results = studied(tmp_path, Completed(metrics(150, 0.97, 2.0), {}, remarks=["says one thing"]))
    allowed = BASE["accuracy"] - 0.95  # what the uncompressed model may lose on validation, and so here
    results.store.set("test", {"baseline": {"test_accuracy": 0.9 + allowed}, "0": {"test_accuracy": kept}})
    assert Results(results.store).row(0)["remarks"] == ["says one thing", *told]


def test_before_the_test_split_was_used_nothing_is_told_of_it(tmp_path: Path) -> None:
    assert "remarks" not in studied(tmp_path, Completed(metrics(150, 0.97, 2.0), {})).row(0)
