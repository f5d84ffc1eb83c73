"""What came of a search: its front, trials, explanations, logs and files."""

from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse

from ...front import pick as pick_from
from ...search.prefixes import transfer_of
from ...search.results import Results
from ..described import ExplainAnswer, FrontAnswer, TrialAnswer
from ..exports import FORMATS, sha256
from ..figures import Figure, draw
from ..parts import WithParts, WithSearch
from ..problems import Refusal
from ..tags import tagged

router = APIRouter(prefix="/searches/{study}", tags=["results"])
BYTES = {"type": "string", "format": "binary"}
SAME: dict[int | str, dict[str, Any]] = {304: {"description": "It is what If-None-Match names."}}
DRAWN: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The picture.",
        "content": {
            "image/png": {"schema": BYTES},
            "application/json": {"schema": {}},
        },
    }
}
PACKED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The archive; X-Checksum-Sha256 is its SHA-256.",
        "content": {kind: {"schema": BYTES} for kind in FORMATS.values()},
    },
    206: {"description": "The part of it that Range names."},
    416: {"description": "Range names what it does not have."},
}
LOG_BYTES = 1_000_000
Pick = Literal["smallest", "fastest", "most-accurate", "knee"]


@router.get("/front", response_model=FrontAnswer, responses=SAME)
def front(parts: WithParts, search: WithSearch, request: Request) -> Response:
    """The front, the verdict on the budget, the nearest miss and the limit that binds."""
    return tagged(request, parts.worked_out(search, "front", _with_limits))


def _with_limits(results: Results) -> dict[str, Any]:
    limits = [vars(limit) for limit in results.limits]
    return {**results.document(), "quality": results.quality, "limits": limits}


@router.get("/trials/{trial}", response_model=TrialAnswer, responses=SAME)
def trial(parts: WithParts, search: WithSearch, trial: int, request: Request) -> Response:
    """One trial: its recipe, what was done to each layer, its measurements and where its time went."""
    results = parts.results(search)
    document = {**results.trial(trial), "quality": results.quality, "from_scratch": transfer_of(results, trial)}
    return tagged(request, {**document, "baseline": results.baseline})


@router.get("/explain", response_model=ExplainAnswer)
def explain(parts: WithParts, search: WithSearch, trial: int | None = None) -> dict[str, Any]:
    """Why the study came to its front; or why a trial is on it or not, from what is known: nothing is measured."""
    # Late, as they take longer to import than all else here together, and most servers are never asked.
    from ...search.explanation import explain_study, explain_trial
    from ...search.prefixes import Known

    results = parts.results(search)
    if trial is None:
        return explain_study(results)
    results.record(trial)
    return explain_trial(results, trial, Known.of(results).around(trial, results.baseline))


@router.get("/figures/{figure}", response_class=Response, responses=DRAWN)
def figure(parts: WithParts, search: WithSearch, figure: Figure, trial: int | None = None) -> Response:
    """A picture: .png to look at, .json for plotly; trial is whose steps are drawn, the knee's if none is given."""
    data, kind = draw(parts.results(search), figure, trial)
    return Response(data, media_type=kind)


@router.get("/logs", response_class=PlainTextResponse)
def logs(parts: WithParts, search: WithSearch, run: Annotated[int | None, Query(ge=1)] = None) -> PlainTextResponse:
    """What a run of its controller, or the last one, wrote: the end of it where it is long."""
    path = parts.log(search, search.run if run is None else run)
    if not path.is_file():
        raise Refusal(404, "there is no such run", f"search {search.study!r}", f"it had {search.run}", "name another")
    return PlainTextResponse(tail(path, LOG_BYTES)[0])


def tail(path: Path, most: int) -> tuple[str, bool]:
    """The last bytes of a file as text, up to so many, and whether there were more."""
    with path.open("rb") as file:
        before = max(0, path.stat().st_size - most)
        file.seek(before)
        return file.read().decode(errors="replace"), before > 0


@router.get("/export", response_class=FileResponse, responses=PACKED)
def export(
    parts: WithParts,
    search: WithSearch,
    trial: int | None = None,
    pick: Pick | None = None,
    kind: Annotated[Literal["zip", "tar.gz"], Query(alias="format")] = "zip",
) -> FileResponse:
    """The artifact directory of a trial, or of one picked from the front, as an archive; made when first asked for."""
    if trial is not None and pick is not None:
        raise Refusal(422, "trial and pick both choose a trial", "query", "one trial is exported", "give one of them")
    number = _chosen(parts.results(search), trial, pick or "knee")
    path = parts.exports.archive(search, number, kind)
    headers = {"X-Checksum-Sha256": sha256(path)}
    return FileResponse(path, media_type=FORMATS[kind], filename=path.name, headers=headers)


def _chosen(results: Results, trial: int | None, how: str) -> int:
    if trial is not None:
        results.record(trial)
        return trial
    metrics = {number: results.metrics(number) for number in results.front.trials}
    return pick_from(results.front.trials, metrics, how, results.quality, results.store.lower)
