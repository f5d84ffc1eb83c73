"""The form of a new search: what is filled in, what a plan says of it, and the search that it becomes."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import quote

import yaml
from fastapi import APIRouter, Request
from fastapi import Response as Headers
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response

from ...config import FOLDERS
from ...errors import AutocompressError
from ..parts import Parts, WithParts, WithPerson
from ..problems import refusal
from ..routes.searches import New, create, plan
from ..tokens import Person
from .rendering import page
from .results import checked, seconds

router = APIRouter(include_in_schema=False)
MOST_FIELDS = 40


@dataclass(frozen=True)
class Limit:
    """A field of the budget: its name in configs, what it says, its units, and by what a number is divided."""

    name: str
    words: str
    units: tuple[str, ...] = ()
    after: str = ""
    scale: float = 1.0


LIMITS = (
    Limit("size", "Size of the file, at most", ("KB", "MB", "B")),
    Limit("latency", "Latency, at most", ("ms", "us", "s")),
    Limit("speedup", "Speed-up, at least", after="times as fast as the uncompressed file"),
    Limit("compression_ratio", "Compression, at least", after="times smaller"),
    Limit("accuracy_drop", "Accuracy lost, at most", after="percentage points", scale=100.0),
    Limit("accuracy", "Accuracy, at least", after="of 1"),
)


@dataclass(frozen=True)
class Filled:
    """What stands in the form; key makes a search of it once, however often it is sent."""

    values: Mapping[str, str] = field(default_factory=dict)
    key: str = field(default_factory=lambda: uuid.uuid4().hex)


@router.get("/new")
def new_search(request: Request, experiment: str = "") -> Response:
    """The empty form."""
    return _form(request, Filled({"experiment": experiment} if experiment else {}))


def _form(request: Request, filled: Filled, status: int = 200, **answer: Any) -> Response:
    usual = {"problem": None, "plan": None}
    return page(request, "new", status, filled=filled, limits=LIMITS, experiments=experiments(), **{**usual, **answer})


@cache
def experiments() -> dict[str, str]:
    """The bundled experiments by name, with the budget that each has."""
    found = {}
    for path in sorted(FOLDERS["experiments"].glob("*/search.yaml")):
        budget = yaml.safe_load(path.read_text(encoding="utf-8")).get("budget") or {}
        found[path.parent.name] = ", ".join(f"{name} {value}" for name, value in budget.items())
    return found


@router.post("/new")
async def filled_in(request: Request, parts: WithParts, person: WithPerson) -> Response:
    """Plan, or begin, what was filled in; what is wrong with it is said beside it."""
    async with request.form(max_files=1, max_fields=MOST_FIELDS) as given:
        values = {name: value.strip() for name, value in given.items() if isinstance(value, str)}
        archive = given.get("archive")
        uploaded = None if archive is None or isinstance(archive, str) or not archive.filename else archive
        filled = Filled(values, values.get("key") or uuid.uuid4().hex)
        try:
            return await run_in_threadpool(_answer, request, parts, person, filled, uploaded)
        except AutocompressError as error:
            problem = refusal(error)
            return _form(request, filled, problem.status, problem=problem.document())


def _answer(request: Request, parts: Parts, person: Person, filled: Filled, archive: Any) -> Response:
    new = wanted(filled.values, archive)
    if filled.values.get("action") == "plan":
        return _form(request, filled, plan=plan(parts, new))
    made = create(parts, person, Headers(), new, filled.key)
    return RedirectResponse(f"/searches/{quote(made['study'], safe='')}", 303)


def wanted(values: Mapping[str, str], archive: Any) -> New:
    """The search that a form means. Raises Refusal."""
    bundled = values.get("project") != "archive"
    told: dict[str, Any] = {name: values.get(name) for name in ("study", "trials", "workers", "priority")}
    told |= {
        "timeout_s": seconds(values.get("timeout", "")),
        "budget": json.dumps(budget(values)) if budget(values) else None,
    }
    told |= (
        {"experiment": values.get("experiment")} if bundled else {"archive": archive, "config": values.get("config")}
    )
    found: New = checked(New, {name: value for name, value in told.items() if value not in ("", None)})
    return found


def budget(values: Mapping[str, str]) -> dict[str, Any]:
    """The limits that are filled in, as a config has them; what is no number is told by who checks the config."""
    found: dict[str, Any] = {}
    for limit in LIMITS:
        text = values.get(limit.name, "")
        if not text:
            continue
        if limit.units:
            found[limit.name] = f"{text} {values.get(f'{limit.name}_unit') or limit.units[0]}"
            continue
        try:
            found[limit.name] = round(float(text) / limit.scale, 12)
        except ValueError:
            found[limit.name] = text
    return found
