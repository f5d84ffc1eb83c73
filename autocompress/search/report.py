"""What the report of a study says, from what is kept of it; nothing is measured or run for it."""

import shlex
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ..config import CALL
from ..outcome import Metrics
from ..recipe import recipe_line
from ..tracking.notes import export_command
from ..tracking.protocol import Member
from ..tracking.report import LINES, Done, Report, Section, Spent, report_html, shares
from ..urls import shown
from ..wording import decision_lines, limit_text, metric_cells, number, verdict_lines, warning_lines
from .explain import picks
from .explanation import explain_study, explain_trial, found_of
from .prefixes import Known
from .reasons import reason_lines, step_remarks, step_rows, study_lines, transfer_lines
from .results import Results
from .storage import DEFAULT_STORAGE


def study_page(results: Results, storage: str) -> bytes:
    """The report of a study as one HTML file; storage is the URL that commands will need."""
    return report_html(study_report(results, storage))


def study_report(results: Results, storage: str) -> Report:
    """What the page says: of the study, and of each member of its front or of the nearest miss."""
    document, members = explain_study(results), shown_members(results)
    verdict, why = verdict_lines(document, results.limits, results.quality), study_reasons(results, document)
    where = "" if storage == DEFAULT_STORAGE else f" --storage {shlex.quote(shown(storage))}"
    known = Known.of(results)
    return Report(
        results.name,
        results.quality,
        [limit_text(limit) for limit in results.limits],
        [*([ended] if (ended := document["ended"]) else []), *verdict, *warning_lines(document)],
        "The front, smallest first" if document["front"] else "Nothing meets the budget: the nearest miss",
        heading(results.quality),
        metric_cells(document["baseline"], results.quality),
        members,
        why.lines,
        why.spent,
        why.phases,
        _commands(results, members, where),
        [section(results, known, member, where) for member in members],
        results.picture(),
    )


@dataclass(frozen=True)
class Reasons:
    """Why a study came to its front, in sentences, and where its time went."""

    lines: list[str]
    spent: list[Spent]
    phases: list[Spent]


def study_reasons(results: Results, document: dict[str, Any]) -> Reasons:
    """What is said of a study besides its verdict and front; document is what explain_study says of it."""
    verdict = verdict_lines(document, results.limits, results.quality)
    said = [line for line in study_lines(document, results.limits, results.quality) if line not in verdict]
    spent = shares({f"{row['kind']} ({row['trials']})": row["seconds"] for row in document["spent"]})
    return Reasons(_without_front(said), spent, _phases(results))


def heading(quality: str) -> tuple[str, ...]:
    """What stands above the cells of shown_members."""
    return ("size", "smaller", quality, f"test {quality}", "ms", "faster (95%)")


def shown_members(results: Results) -> list[Member]:
    """The front, smallest first, with what one would pick each for; without one, the nearest miss."""
    front, named = results.front, picks(found_of(results))
    numbers = front.trials or ([] if front.nearest_miss is None else [front.nearest_miss])
    return [
        Member(
            number,
            tuple(named.get(number, ("nearest miss",))),
            tuple(metric_cells(results.metrics(number), results.quality)),
        )
        for number in numbers
    ]


def _without_front(lines: list[str]) -> list[str]:
    """The reasons alone: the front and the next command have places of their own on the page."""
    end = lines.index("the front:") if "the front:" in lines else len(lines)
    return [line for line in lines[:end] if not line.startswith(("next: ", "workers' time"))]


def _phases(results: Results) -> list[Spent]:
    total: Counter[str] = Counter()
    for outcome in results.store.outcomes().values():
        total.update(outcome.seconds)
    return shares(total)


def _commands(results: Results, members: list[Member], where: str) -> list[str]:
    name = shlex.quote(results.name)
    chosen = next((member.number for member in members if "knee" in member.picks), None)
    rows = [f"autocompress ui{where}", f"autocompress explain {name}{where}"]
    if chosen is not None:
        rows.append(f"autocompress show {name} {chosen}{where}")
        rows.append(f"autocompress export {name} --pick knee --out chosen{where}")
    config, trials = str(results.store.get("config_path", "CONFIG")), 2 * len(results.records) or 20
    if config == CALL:
        return [*rows, f"in Python: autocompress.search(..., study={results.name!r}, resume=True, trials={trials})"]
    return [*rows, f"autocompress search {shlex.quote(config)} --resume --trials {trials}"]


def section(results: Results, known: Known, member: Member, where: str) -> Section:
    """What is said of one trial; where is what its commands end with. Raises StudyError where there is none."""
    trial = member.number
    document, name = results.trial(trial), shlex.quote(results.name)
    reasons = explain_trial(results, trial, known.around(trial, results.baseline))
    command = export_command(results.name, trial) if document["feasible"] else f"autocompress show {name} {trial}"
    return Section(
        trial,
        member.picks,
        [_step(step) for step in document["recipe"]["steps"]],
        document.get("remarks", []),
        step_rows(reasons),
        [
            *([document["reason"]] if document["reason"] else []),
            *step_remarks(reasons),
            *transfer_lines(reasons),
            *reason_lines(reasons),
        ],
        _metrics(document["metrics"], {**results.baseline, **results.test.get("baseline", {})}),
        _done(document),
        shares(document["seconds"]),
        [f"{command}{where}", f"autocompress explain {name} {trial}{where}"],
    )


def _step(step: dict[str, Any]) -> str:
    return recipe_line({"steps": [step]})


def _metrics(metrics: Metrics, baseline: Metrics) -> list[tuple[str, str, str]]:
    before = {name: number(name, value) for name, value in baseline.items()}
    return [(name, number(name, value), before.get(name, "")) for name, value in metrics.items()]


def _done(document: dict[str, Any]) -> list[Done]:
    """What each step that was carried out did to each layer, cut where a model has very many."""
    rows = []
    for step, decision in zip(document["carried_out"], document["decisions"], strict=False):
        lines = decision_lines(decision)
        more = [f"... ({len(lines)} in all: autocompress show)"] if len(lines) > LINES else []
        rows.append(Done(_step(step), [*lines[:LINES], *more]))
    return rows
