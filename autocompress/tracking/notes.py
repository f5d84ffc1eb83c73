"""What MLflow's runs are called, and what stands in their descriptions: pure text, in Markdown where it is shown so."""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from ..outcome import Completed, Failed, Infeasible, Metrics, Outcome, Stopped, measured
from ..wording import size
from .protocol import Data, Note, Row

NAME_LENGTH, REASON_LENGTH, NOTE_LENGTH = 120, 70, 7500


# The half of MLflow's page for trained models, which it does not choose by itself.
TRAINING = "workflowType=machine_learning"


@dataclass(frozen=True)
class Places:
    """Where MLflow's page has what a description leads to: by trial, and the table, the picture and the report."""

    runs: dict[int, str]
    models: dict[int, str]
    table: str | None = None
    picture: str | None = None
    report: str | None = None


def run_page(experiment: str, run_id: str) -> str:
    """The address of a run within MLflow's page, whatever host and path that is served from."""
    return f"#/experiments/{experiment}/runs/{run_id}?{TRAINING}"


def table_page(experiment: str, key: str) -> str:
    """The address of the table that front_view describes, kept with the experiment under a key."""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={key}&{TRAINING}"


def front_view(study: str, quality: str) -> str:
    """What MLflow keeps of a table of runs: the front of a study, smallest first, with what it is chosen by."""
    metrics = ("size_bytes", quality, f"test_{quality}", "latency_ms", "speedup", "compression_ratio")
    view = {
        "searchFilter": f"tags.`autocompress.study` = '{study}' AND tags.`autocompress.front` = 'true'",
        "orderByKey": "metrics.`size_bytes`",
        "orderByAsc": True,
        "selectedColumns": [f"metrics.`{name}`" for name in metrics],
    }
    return json.dumps(view)


def run_name(number: int, outcome: Outcome, quality: str) -> str:
    """A trial by what came of it, such as `#47 · 9.3 KB · 0.968 · 6.8x`, or by why nothing did."""
    past = [label for label, value in getattr(outcome, "violations", {}).items() if value > 0]
    match outcome:
        case Completed(metrics=metrics):
            parts = _numbers(metrics, quality)
        case Infeasible(metrics=metrics) if measured(outcome) is not None:
            parts = [*_numbers(metrics, quality), f"past {', '.join(past)}"]
        case Infeasible(reason=reason):
            parts = [f"rejected: {_cut(reason)}"]
        case Stopped(reason=reason):
            parts = [f"stopped: {_cut(reason)}"]
        case Failed(reason=reason):
            parts = [f"failed: {_cut(reason)}"]
    return " · ".join((f"#{number}", *parts))[:NAME_LENGTH]


def _numbers(metrics: Metrics, quality: str) -> list[str]:
    """Size, quality and speed-up, in few digits, as far as they are known."""
    told = [size(metrics["size_bytes"])] if "size_bytes" in metrics else []
    if quality in metrics:
        value = metrics[quality]
        told.append(f"{value:.3f}" if 0.01 <= abs(value) < 1 else f"{value:.4g}")
    return told + ([f"{metrics['speedup']:.1f}x"] if "speedup" in metrics else [])


def _cut(reason: str) -> str:
    first = " ".join(reason.split())
    return first if len(first) <= REASON_LENGTH else f"{first[: REASON_LENGTH - 1]}…"


def trial_note(row: Row, quality: str) -> str:
    """The description of a trial's run: what it came to, its recipe step by step, and why it ended so."""
    steps = [f"{index}. {plain(str(step))}" for index, step in enumerate(row.recipe.steps, 1)] or ["(no steps)"]
    reason = getattr(row.outcome, "reason", "")
    parts = [f"**{plain(run_name(row.number, row.outcome, quality))}**", "\n".join(steps)]
    return "\n\n".join([*parts, *([plain(reason)] if reason else [])])[:NOTE_LENGTH]


def study_note(study: str, note: Note, places: Places) -> str:
    """The description of a study's run: verdict, budget, the front as a table with its picture, and what to type.

    The best are named first: what one would pick the rows for. Rows that are too many for a description are left out.
    """
    text, shown = "", len(note.members) + 1
    while shown and (not text or len(text) > NOTE_LENGTH):
        shown -= 1
        text = _study_note(study, note, places, shown)
    return text[:NOTE_LENGTH]


def _study_note(study: str, note: Note, places: Places, shown: int) -> str:
    lead = [f"**{plain(line)}**" if index == 1 else plain(line) for index, line in enumerate(note.verdict)]
    budget = "; ".join(map(plain, note.budget)) or "no limits"
    parts = [f"### {plain(study)}", "\n\n".join(lead), f"Budget: {budget}"]
    if note.members:
        parts.append("\n".join(_table(note, places, shown)))
    if shown < len(note.members):
        parts.append(f"... and {len(note.members) - shown} more, which carry the tag `autocompress.front`")
    if places.table:
        parts.append(f"[The front as a table to sort and compare]({places.table})")
    if note.page:
        parts.append(f"[The search's own page]({note.page}): filter, compare, explain and export")
    if places.report:
        parts.append(f"[The report]({places.report}): one page, for whoever has no MLflow")
    if places.picture:
        parts.append(f"![the front: quality against size]({places.picture})")
    if note.commands:
        parts.append("Next:\n\n```sh\n" + "\n".join(note.commands) + "\n```")
    return "\n\n".join(parts)


def _table(note: Note, places: Places, shown: int) -> list[str]:
    """The rows that one would pick first, then the others in their order, as many as are shown."""
    rows = sorted(note.members, key=lambda member: not member.picks)[:shown]
    lines = [_row(["pick", "trial", *map(plain, note.heading), "model"]), _row(["---"] * (len(note.heading) + 3))]
    for member in rows:
        here = f"[#{member.number}]({places.runs[member.number]})" if member.number in places.runs else member.number
        file = f"[download]({places.models[member.number]})" if member.number in places.models else ""
        lines.append(_row([plain(", ".join(member.picks)), str(here), *map(plain, member.cells), file]))
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plain(text: str) -> str:
    """Text in one line that Markdown shows as it stands, and no browser takes for markup."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", line)


def export_command(study: str, number: int, server: str | None = None) -> str:
    """What to type for the artifact directory of a trial, where a service has the study by its address."""
    where = f" --server {shlex.quote(server)}" if server else ""
    return f"autocompress export {shlex.quote(study)} --trial {number} --out chosen{where}"


def search_page(server: str, study: str) -> str:
    """The address of a search's page in a service."""
    return f"{server.rstrip('/')}/searches/{quote(study, safe='')}"


def data_profile(data: Data) -> str:
    """How many examples each split has, as MLflow shows it with a dataset."""
    return json.dumps({f"{name}_examples": count for name, count in data.examples.items()})
