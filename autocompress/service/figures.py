"""Pictures of a search, drawn when they are asked for: those that are logged to MLflow, and as plotly's JSON."""

from enum import StrEnum
from typing import Any

from ..search.results import Results
from ..tracking.figures import front_figure, front_png, speed_figure
from ..tracking.steps import StepsPicture, draw_steps
from .problems import Refusal

PNG, JSON = "image/png", "application/json"


class Figure(StrEnum):
    """A picture: size against quality, size against latency, and what the steps of one trial bought."""

    front_json = "front.json"
    front_png = "front.png"
    speed_json = "speed.json"
    steps_png = "steps.png"


def draw(results: Results, figure: Figure, trial: int | None) -> tuple[bytes, str]:
    """A picture and its media type; trial is whose steps are drawn, the knee's if none is given.

    Raises Refusal (409) where there is nothing to draw yet.
    """
    if not results.baseline:
        raise _nothing(results, "its baseline is not measured yet")
    match figure:
        case Figure.front_json:
            return _json(front_figure(results.picture())), JSON
        case Figure.speed_json:
            return _json(speed_figure(results.picture())), JSON
        case Figure.front_png:
            return front_png(results.picture()), PNG
        case Figure.steps_png:
            return draw_steps(_steps(results, trial)), PNG


def _json(figure: Any) -> bytes:
    text: str = figure.to_json()
    return text.encode()


def _steps(results: Results, trial: int | None) -> StepsPicture:
    # Late, as it takes long to import.
    from ..search.explanation import found_of, knee_picture, steps_picture
    from ..search.prefixes import Known

    found, known = found_of(results), Known.of(results)
    if trial is None:
        knee = knee_picture(results.name, found, known)
        if knee is None:
            raise _nothing(results, "no step of the front's knee is known")
        return knee
    recipe, prefixes = results.record(trial).recipe_data, known.prefixes(trial, results.baseline)
    return steps_picture(f"{results.name}: trial {trial}", recipe, prefixes, found)


def _nothing(results: Results, rule: str) -> Refusal:
    return Refusal(409, "there is nothing to draw", f"search {results.name!r}", rule, "wait for its first trials")
