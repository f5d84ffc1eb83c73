"""The technique keeps the contract of every technique."""

import pytest
from interpolative import Interpolative

from autocompress.testing import TechniqueContract


class TestInterpolative(TechniqueContract):
    @pytest.fixture
    def technique(self):
        return Interpolative()
