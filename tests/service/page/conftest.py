"""A site for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from signed import Site
from signed import site as opened


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """The pages of a server with an empty queue."""
    with opened(tmp_path) as found:
        yield found
