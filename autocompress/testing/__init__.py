"""The contract suites, for packages with techniques or tasks of their own: subclass one and give it its fixture.

    from autocompress.testing import TechniqueContract

    class TestMine(TechniqueContract):
        @pytest.fixture
        def technique(self):
            return Mine()

They run under pytest, which `pip install 'autocompress[testing]'` brings.
"""

import pytest

# Before they are imported, so that a failure shows the values that were compared.
pytest.register_assert_rewrite(f"{__name__}.technique_contract", f"{__name__}.task_contract")

from .models import MODELS, make_task, seeded  # noqa: E402
from .task_contract import TaskContract  # noqa: E402
from .technique_contract import TechniqueContract  # noqa: E402

__all__ = ["MODELS", "TaskContract", "TechniqueContract", "make_task", "seeded"]
