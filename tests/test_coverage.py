"""The table of which technique works on which network is complete, follows from its rows, and still holds."""

import sys
from pathlib import Path

import pandas as pd
import pytest

FOLDER = Path(__file__).parent.parent / "experiments" / "techniques"
ROWS = pd.read_csv(FOLDER / "coverage.csv")


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("coverage", "networks"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_every_technique_was_tried_on_every_network() -> None:
    import coverage as script  # type: ignore[import-not-found]

    tried = set(zip(ROWS["case"], ROWS["network"], strict=True))
    every = {(technique, network) for technique in script.techniques() for network in script.NETWORKS}
    assert tried == every


def test_the_table_is_that_of_the_rows() -> None:
    import coverage as script

    assert (FOLDER / "coverage.md").read_text() == script.table(ROWS)


@pytest.mark.parametrize("network", ["LeNet-5", "Transformer"])
def test_the_rows_still_hold(network: str) -> None:
    import coverage as script

    for row in ROWS[ROWS["network"] == network].to_dict("records"):
        found = script.try_out(row["case"], network)
        assert found["outcome"] == row["outcome"], (row["case"], found)
        if row["outcome"] == "works":
            assert found["compression_ratio"] == pytest.approx(row["compression_ratio"], rel=0.05), row["case"]
        else:
            assert found["reason"] == row["reason"]
