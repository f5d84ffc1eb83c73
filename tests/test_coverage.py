"""The table of techniques and networks says what is so."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

FOLDER = Path(__file__).parents[1] / "experiments" / "techniques"
ROWS = pd.read_csv(FOLDER / "coverage.csv")
# Those that take a second; the script goes through the others.
QUICK = ("LeNet-5", "Transformer")


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    """The script that writes the table."""
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location("coverage_table", FOLDER / "coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(FOLDER))
    return module


def test_every_technique_is_tried_on_every_network(coverage: ModuleType) -> None:
    tried = {(row.case, row.network) for row in ROWS.itertuples()}
    assert tried == {(name, network) for name in coverage.techniques() for network in coverage.NETWORKS}
    assert set(ROWS["outcome"]) <= {"works", "refused"}
    assert ROWS[ROWS["outcome"] == "refused"]["reason"].str.len().min() > 20


def test_the_table_is_that_of_the_rows(coverage: ModuleType) -> None:
    assert (FOLDER / "coverage.md").read_text() == coverage.table(ROWS)


@pytest.mark.parametrize("network", QUICK)
@pytest.mark.parametrize("name", sorted(ROWS["case"].unique()))
def test_the_table_is_true(coverage: ModuleType, name: str, network: str) -> None:
    said = ROWS[(ROWS["case"] == name) & (ROWS["network"] == network)].iloc[0]
    found = coverage.try_out(name, network)
    assert found["outcome"] == said["outcome"], found
    if said["outcome"] == "works":
        # Factorizations differ in their last bits, and so in a rank, from processor to processor.
        assert found["compression_ratio"] == pytest.approx(said["compression_ratio"], rel=0.05)
