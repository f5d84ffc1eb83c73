"""The order of the tests: files that start Ray or servers take longest and come first, so that none is left to last."""

import pytest

LONGEST = ("test_faults", "test_interruptions", "test_end_to_end", "test_outage", "test_readme", "test_executors")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; what is equal stays in its order."""
    rank = {name: index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))
