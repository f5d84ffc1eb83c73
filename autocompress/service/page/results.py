"""A search's own pages: its front as it grows, its trials, two of them side by side, why, and its log."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import RedirectResponse, Response

from ...config import DURATIONS, less_is_better, quantity
from ...search.results import Results
from ...tracking.protocol import Member
from ...wording import limit_text, metric_cells, verdict_lines, visible, warning_lines
from .. import events
from ..database import Search
from ..parts import Parts, WithParts, WithPerson, WithSearch
from ..problems import Refusal
from ..routes.results import Pick, export, tail
from ..routes.searches import Change
from .comparing import compared
from .listing import Standing, brief, standing
from .rendering import page

router = APIRouter(include_in_schema=False, prefix="/searches/{study}")
TRIALS_PER_PAGE = 200
LOG_BYTES = 100_000
MOST_COMPARED = 2


def standing_of(parts: Parts, search: Search) -> Standing:
    """Where one search stands."""
    with parts.database.transaction() as session:
        return standing(search, events.last(session, search.id, "front"))


def _begun(parts: Parts, search: Search) -> Results | None:
    """What the storage holds of a search; None where it was not begun yet."""
    try:
        found = parts.results(search)
    except Refusal:
        return None
    return found if found.baseline else None


@router.get("")
def search_page(request: Request, parts: WithParts, search: WithSearch) -> Response:
    """State, verdict and front."""
    results = _begun(parts, search)
    front = None if results is None else parts.worked_out(search, "page", _front)
    mlflow = None if results is None else _in_mlflow(parts, results)
    return page(request, "search", search=search, row=standing_of(parts, search), front=front, mlflow=mlflow)


def _in_mlflow(parts: Parts, results: Results) -> str | None:
    """The address of a search's run in MLflow; None where it has none that is known."""
    place, where = results.store.get("mlflow_page"), parts.settings.mlflow
    return f"{where.rstrip('/')}/{place}" if place and where else None


def _front(results: Results) -> dict[str, Any]:
    """The front as rows, and what is said of it."""
    # Late, as for the API's own explanations.
    from ...search.report import heading, shown_members

    document = results.document()
    return {
        "members": shown_members(results),
        "feasible": bool(document["front"]),
        "heading": heading(results.quality),
        "baseline": metric_cells(document["baseline"], results.quality),
        "budget": [limit_text(limit) for limit in results.limits],
        "verdict": [*([ended] if (ended := document["ended"]) else []),
                    *verdict_lines(document, results.limits, results.quality), *warning_lines(document)],
        "quality": results.quality,
        "lower": less_is_better(results.quality, results.store.lower),
    }  # fmt: skip


@router.get("/figures")
def figures_of(parts: WithParts, search: WithSearch) -> dict[str, Any]:
    """The figures of the front in plotly's JSON, and every measured trial as a point with its name."""
    return parts.worked_out(search, "figures", _figures)


def _figures(results: Results) -> dict[str, Any]:
    from ...tracking.report import figures

    picture, quality = results.picture(), results.quality
    points = {
        point.number: {
            "size": point.metrics["size_bytes"],
            "quality": point.metrics[quality],
            "latency": point.metrics["latency_ms"],
            "front": point.front,
            "feasible": point.feasible,
            "label": visible(f"trial {point.number}: {_values(point.metrics, quality)}"),
        }
        for point in picture.points
    }
    return {"figures": figures(picture), "points": points}


def _values(metrics: dict[str, float], quality: str) -> str:
    return ", ".join(brief(name, metrics[name]) for name in ("size_bytes", quality, "latency_ms"))


@router.get("/trials")
def trials(request: Request, parts: WithParts, search: WithSearch, before: int | None = None) -> Response:
    """Every trial that ended, newest first."""
    from ...recipe import recipe_line
    from ...search.report import heading

    results = parts.results(search)
    numbers = sorted((n for n in results.records if before is None or n < before), reverse=True)
    rows = [
        {
            "number": number,
            "outcome": getattr(results.records[number].outcome, "type", None),
            "reason": getattr(results.records[number].outcome, "reason", None),
            "recipe": recipe_line(results.records[number].recipe_data),
            "cells": metric_cells(results.metrics(number), results.quality),
            "front": number in results.front.trials,
        }
        for number in numbers[:TRIALS_PER_PAGE]
    ]
    following = numbers[TRIALS_PER_PAGE - 1] if len(numbers) > TRIALS_PER_PAGE else None
    names = heading(results.quality)
    return page(request, "trials", search=search, rows=rows, heading=names, following=following)


@router.get("/trials/{trial}")
def trial_page(request: Request, parts: WithParts, search: WithSearch, trial: int) -> Response:
    """One trial: its recipe, what each step did, its measurements, its seconds, and why it is where it is."""
    results = parts.results(search)
    part = _section(results, trial, request)
    outcome = results.record(trial).outcome
    values: dict[str, Any] = {
        "outcome": getattr(outcome, "type", None),
        "details": getattr(outcome, "details", "").splitlines(),
        "exportable": results.row(trial)["feasible"],
        "others": [number for number in results.front.trials if number != trial],
        "values": _values(outcome.metrics, results.quality) if trial in _measured(results) else "",  # type: ignore[union-attr]
    }
    return page(request, "trial", search=search, part=part, **values)


def _measured(results: Results) -> set[int]:
    return {point.number for point in results.picture().points}


def _section(results: Results, trial: int, request: Request) -> Any:
    from ...search.explain import picks
    from ...search.explanation import found_of
    from ...search.prefixes import Known
    from ...search.report import section

    results.record(trial)
    chosen = tuple(picks(found_of(results)).get(trial, ()))
    member = Member(trial, chosen, tuple(metric_cells(results.metrics(trial), results.quality)))
    return section(results, Known.of(results), member, f" --server {request.url.scheme}://{request.url.netloc}")


@router.get("/compare")
def compare(
    request: Request,
    parts: WithParts,
    search: WithSearch,
    trial: Annotated[list[int], Query(default_factory=list)],
) -> Response:
    """Two trials side by side."""
    results = parts.results(search)
    if len(trial) != MOST_COMPARED:
        return page(request, "compare", search=search, pair=None, chosen=trial, numbers=list(results.front.trials))
    sections = [_section(results, number, request) for number in trial]
    pair = compared(results, trial[0], trial[1])
    return page(request, "compare", search=search, pair=pair, sections=sections, chosen=trial,
                numbers=list(results.front.trials))  # fmt: skip


@router.get("/why")
def why(request: Request, parts: WithParts, search: WithSearch) -> Response:
    """Why the study came to its front, and where its time went."""
    found = parts.worked_out(search, "why", _reasons)
    return page(request, "why", search=search, why=found)


def _reasons(results: Results) -> Any:
    from ...search.explanation import explain_study
    from ...search.report import study_reasons

    return study_reasons(results, explain_study(results))


@router.get("/log")
def log(
    request: Request, parts: WithParts, search: WithSearch, run: Annotated[int | None, Query(ge=1)] = None
) -> Response:
    """The end of what a run of its controller wrote."""
    number = search.run if run is None else run
    path = parts.log(search, number)
    text, cut = tail(path, LOG_BYTES) if path.is_file() else ("", False)
    lines = text.splitlines()[1 if cut else 0 :]
    return page(request, "log", search=search, lines=lines, run=number, cut=cut)


@router.get("/export")
def export_file(
    parts: WithParts, search: WithSearch, trial: int | None = None, pick: Pick | None = None, format: str = "zip"
) -> Response:
    """The artifact directory of a trial, as the API sends it; what goes wrong is told by a page."""
    return export(parts, search, trial, pick, "tar.gz" if format == "tar.gz" else "zip")


@router.post("/change")
def change(
    parts: WithParts,
    person: WithPerson,
    search: WithSearch,
    trials: Annotated[str, Form()] = "",
    timeout: Annotated[str, Form()] = "",
    workers: Annotated[str, Form()] = "",
    priority: Annotated[str, Form()] = "",
) -> Response:
    """Change what a search was submitted with; what is left empty stays as it is."""
    given = {"trials": trials, "workers": workers, "priority": priority, "timeout_s": seconds(timeout)}
    new = checked(Change, {name: value for name, value in given.items() if value not in ("", None)})
    parts.queue.patch(person, search.study, new.model_dump(exclude_unset=True))
    return RedirectResponse(f"/searches/{search.study}", 303)


def seconds(text: str) -> float | None:
    """A time such as `10m`; None for nothing. Raises Refusal."""
    if not text.strip():
        return None
    try:
        found: float = quantity(DURATIONS, "10m")(text)
    except ValueError as error:
        raise Refusal(422, str(error), "time limit", "", "") from None
    return found


def checked(model: Any, values: dict[str, Any]) -> Any:
    """What a form says, as the API checks it. Raises Refusal."""
    from pydantic import ValidationError

    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refusal(422, f"{str(first.get('input'))[:60]!r}", where, first["msg"], "write another value") from None
