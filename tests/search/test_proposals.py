"""What proposals are worth, against the definition."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autocompress.search.aim import Aim, Axis, Bound
from autocompress.search.proposals import QUANTILES, Proposer
from autocompress.search.terrain import Array, Row, Terrain

AXES = (
    Axis("size_bytes", True, 10, 1000, True, True),
    Axis("accuracy", False, 1.0, 0.8, False, False),
    Axis("f1", False, 1.0, 0.5, False, False),
)
BOUNDS = (Bound("size_bytes", True, 1000), Bound("accuracy", False, 0.85))
QUALITIES = {"accuracy": (0.97, 0.07), "f1": (0.9, 0.1)}


def proposer(axes: tuple[Axis, ...]) -> Proposer:
    def nothing(row: Row) -> set[str]:
        return set()

    return Proposer(Terrain({}, nothing, nothing), Aim(axes, BOUNDS, QUALITIES), lambda row: 1.0, 0)


def defined(cube: Array, axes: tuple[Axis, ...], taken: Array, sizes: Array, qualities: dict[str, Array]) -> Array:
    """The share of the cube's points that each row dominates, within the limits on quality, and none that is taken."""
    free = np.array([not any((point <= sample).all() for point in taken) for sample in cube])
    found = np.zeros(len(sizes))
    for row in range(len(sizes)):
        for quantile in range(len(QUANTILES)):
            values = {"size_bytes": sizes[row], **{name: many[row, quantile] for name, many in qualities.items()}}
            costs = np.array([axis.cost(np.array(values[axis.name])) for axis in axes])
            share = (free & (costs <= cube).all(1)).mean()
            found[row] += share * (values["accuracy"] >= 0.85) / len(QUANTILES)
    return found


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(0, 6))
def test_gains_are_the_share_of_the_cube_that_nothing_dominated_before(seed: int, axes: int, taken: int) -> None:
    made, generator = proposer(AXES[:axes]), np.random.default_rng(seed)
    made._cube = made._cube[:, :300]  # fewer than are compared at most, so that the definition counts the same
    points = generator.uniform(0, 1.2, (taken, axes))
    sizes = generator.uniform(5, 1500, 8)
    qualities = {name: generator.uniform(0.7, 1.05, (8, len(QUANTILES))) for name in ("accuracy", "f1")}
    found = made._gains(points, {"size_bytes": np.log(sizes)}, qualities)
    np.testing.assert_allclose(found, defined(made._cube.T, AXES[:axes], points, sizes, qualities), atol=1e-12)
