"""Every technique of the family on every odd model."""

import pytest
from own import own_techniques

from autocompress.techniques import Technique
from autocompress.testing import TechniqueContract


class TestStudents(TechniqueContract):
    @pytest.fixture(params=own_techniques("students"))
    def technique(self, request: pytest.FixtureRequest) -> type[Technique]:
        return request.param
