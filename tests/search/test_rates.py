"""Learning rates of bundled spaces, for tasks that train at rates of another order."""

from types import SimpleNamespace
from typing import Any

import pytest

from autocompress import Training
from autocompress.config import FOLDERS
from autocompress.recipe import Range
from autocompress.search.portfolio import load_portfolio, portfolio_rows
from autocompress.search.setup import rate_factor
from autocompress.search.space import Space
from autocompress.search.space_file import load_space
from autocompress.tasks.protocol import learning_rate

SPACES = sorted(FOLDERS["search_spaces"].glob("*.yaml"))


def rates(space: Space) -> dict[str, Any]:
    """What each option says of its rate: a domain or a number."""
    options = space.options()
    return {
        name: option.searched.get("learning_rate", option.fixed.get("learning_rate"))
        for name, option in options.items()
        if "learning_rate" in option.kind.model_fields
    }


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_rate_of_a_space_is_multiplied_and_nothing_else(path: Any) -> None:
    space = load_space(path)
    scaled = space.at_rates(0.01)
    assert scaled.rates == 0.01
    assert space.at_rates(1.0) is space
    assert scaled.parameters() == space.parameters()
    for name, found in rates(scaled).items():
        before, kind = rates(space)[name], space.options()[name].kind
        if isinstance(before, Range):
            assert (found.low, found.high) == pytest.approx((before.low / 100, before.high / 100))
        else:
            expected = kind.model_fields["learning_rate"].default if before is None else before
            assert found == pytest.approx(expected / 100)
    assert scaled.without({}).rates == scaled.without(dict.fromkeys(["float16"], "why")).rates == 0.01


def test_a_search_begins_with_the_portfolio_at_the_rates_of_its_space() -> None:
    space = load_space(FOLDERS["search_spaces"] / "hybrid.yaml")
    plain, scaled = (portfolio_rows(each, load_portfolio()) for each in (space, space.at_rates(0.025)))
    assert len(plain) == len(scaled) > 5
    for before, after in zip(plain, scaled, strict=True):
        for key, value in before.items():
            if isinstance(value, float) and key.endswith(".learning_rate"):
                assert after[key] == pytest.approx(value * 0.025)
            else:
                assert after[key] == value


@pytest.mark.parametrize(
    ("own", "baseline", "expected"),
    [(None, None, 1), (None, 2e-3, 1), (None, 1e-3, 1), (None, 5e-3, 1), (None, 5e-5, 0.025), (5e-5, None, 0.025),
     (5e-5, 2e-3, 1), (None, 2e-2, 10)],
)  # fmt: skip
def test_rates_follow_the_tasks_own_where_that_is_of_another_order(own: Any, baseline: Any, expected: float) -> None:
    task: Any = SimpleNamespace(baseline=None if baseline is None else Training(learning_rate=baseline))
    if own is not None:
        task.learning_rate = own
    assert rate_factor(task) == pytest.approx(expected)
    assert learning_rate(task, 1.0) == (baseline or own or 1.0)
