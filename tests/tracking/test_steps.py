"""The picture of a recipe's steps: what stands in it, and that it is drawn whatever is known."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from autocompress.outcome import Limit, Metrics
from autocompress.tracking.steps import After, StepsPicture, draw_steps


def metrics(size: float, accuracy: float, speedup: float) -> Metrics:
    interval = {"speedup_low": speedup - 0.1, "speedup_high": speedup + 0.1}
    return {"size_bytes": size, "accuracy": accuracy, "speedup": speedup, **interval}


ROWS = (
    After("uncompressed", metrics(1_725_000, 0.985, 1.0)),
    After("channel_pruning", metrics(431_000, 0.1135, 2.25)),
    After("finetune\nint8_static", metrics(55_500, 0.9795, 3.75)),
)
LIMITS = (Limit("size_bytes", "at_most", 60_000.0, "size"), Limit("accuracy", "at_least", 0.975, "accuracy_drop"))
PICTURE = StepsPicture("lenet: trial 7", "accuracy", ROWS, LIMITS)


def texts(picture: StepsPicture) -> list[str]:
    """What is written in an SVG: matplotlib draws letters as shapes, and says in a comment what they read."""
    return re.findall(r"<!-- (.*?) -->", draw_steps(picture, "svg").decode())


def test_every_step_stands_there_with_its_numbers() -> None:
    written = texts(PICTURE)
    assert {"lenet: trial 7", "uncompressed", "channel_pruning", "finetune", "int8_static"} <= set(written)
    assert {"1725", "431", "55.5", "0.985", "0.1135", "0.9795", "1", "2.25", "3.75"} <= set(written)


def test_the_same_picture_is_the_same_bytes() -> None:
    assert draw_steps(PICTURE, "svg") == draw_steps(PICTURE, "svg")


def test_the_budget_is_drawn_where_there_is_one() -> None:
    def red(picture: StepsPicture) -> int:
        pixels = np.asarray(Image.open(io.BytesIO(draw_steps(picture))).convert("RGB")).astype(int)
        return int(((pixels[..., 0] - pixels[..., 1:].max(axis=2)) > 60).sum())

    assert red(PICTURE) > 200
    assert red(StepsPicture("lenet", "accuracy", ROWS, ())) == 0


@pytest.mark.parametrize("rows", [ROWS[:1], (ROWS[0], After("svd", {"size_bytes": 10.0}))])
def test_it_is_drawn_whatever_is_known(rows: tuple[After, ...]) -> None:
    image = Image.open(io.BytesIO(draw_steps(StepsPicture("lenet", "f1", rows, LIMITS))))
    assert (image.format, image.size) == ("PNG", (880, 770))  # 8 x 7 inches at 110 dots an inch
