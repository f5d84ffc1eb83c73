"""What `explain` answers in sentences, from its documents: the same in a terminal and on a page."""

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from ..outcome import Metrics
from ..recipe import recipe_line
from ..wording import change_text, clock, limit_text, value_text, verdict_lines

NUMBERS = 12  # trials that are named in one line
FACTS = {"size_bytes": "size", "speedup": "speed"}


def study_lines(document: dict[str, Any], limits: Sequence[Any], quality: str) -> Iterator[str]:
    """A study: verdict, limits, where time went, settings that mattered, and the front in a line each."""
    yield from verdict_lines(document, limits, quality)
    for row in document["closest"]:
        yield (
            f"closest to the limit on {row['label']}: {row['members']} of {len(document['front'])} on the front; "
            f"trial {row['trial']} has {_left(row['left'])}"
        )
    yield from _past_lines(document["past"], {limit.label for limit in limits})
    for row in document["failures"]:
        yield f"failed: {len(row['trials'])}, such as trial {row['trials'][0]}: {row['reason']}"
    spent = [f"{row['kind']} {clock(row['seconds'])} ({row['trials']})" for row in document["spent"]]
    if spent:
        yield f"workers' time (trials): {', '.join(spent)}"
    off = document["facts_off"]
    known = [f"{words} by {off[name]:.1%}" for name, words in FACTS.items() if name in off]
    if known:
        yield f"what was known before training was off in 95 of 100 trials by no more than: {', '.join(known)}"
    yield from _setting_lines(document)
    if document["front"]:
        yield "the front:"
    for row in document["front"]:
        yield f"  {_member(row, quality)}"
        yield from (f"       warning: it {text}" for text in row.get("remarks", ()))
    shown = [row for row in document["front"] if "knee" in row["picks"]] or [document["nearest_miss"]]
    if shown[0]:
        yield f"next: autocompress explain {document['study']} {shown[0]['trial']}"


def _past_lines(rows: list[dict[str, Any]], limits: set[str]) -> Iterator[str]:
    for row in rows:
        what = f"past the limit on {row['label']}" if row["label"] in limits else f"given up for {row['label']}"
        alone = f", {row['alone']} of them past no other" if row["alone"] < row["trials"] else ""
        yield f"{what}: {row['trials']} trials{alone}; {clock(row['seconds'])} of work"


def _left(share: float) -> str:
    return f"{share:.0%} of it left" if share < 1 else "all of it left"


def _setting_lines(document: dict[str, Any]) -> Iterator[str]:
    if document["measured"] < document["enough"]:
        few = f"{document['measured']} trials were measured in full"
        yield f"which settings mattered cannot be told: {few}, and it takes {document['enough']}"
    for objective, rows in document["settings"].items():
        told = "; ".join(_setting(row) for row in rows) or "no setting more than chance would have it"
        yield f"what mattered for {objective}: {told}"


def _setting(row: Mapping[str, Any]) -> str:
    best, others = (_plain(row[key]) for key in ("best", "others"))
    usual = f"usually {best} in the best trials" if row["best"] is not None else "in none of the best trials"
    if row["others"] is not None and row["others"] != row["best"]:
        usual += f", {others} in the others"
    return f"{row['name']} {row['share']:.0%} ({usual})"


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _member(row: dict[str, Any], quality: str) -> str:
    metrics = row["metrics"]
    names = f"{', '.join(row['picks'])}: " if row["picks"] else ""
    tight = row["limits"][0] if row["limits"] else None
    left = f"; {tight['label']} binds, {_left(tight['left'])}" if tight and tight["left"] < 1 else ""
    told = ", ".join(value_text(name, metrics[name]) for name in ("size_bytes", quality, "speedup"))
    return f"{row['trial']:>5}  {names}{told}{left}: {recipe_line(row['recipe'])}"


def trial_lines(document: dict[str, Any]) -> Iterator[str]:
    """How a trial ended, and why."""
    ended = f"{document['outcome']}, {'' if document['on_front'] else 'not '}on the front"
    names = f" ({', '.join(document['picks'])})" if document["picks"] else ""
    names += ", but the nearest miss" if document["nearest_miss"] else ""
    yield f"trial {document['trial']} of {document['study']}: {ended}{names}"
    yield f"  {recipe_line(document['recipe'])}"
    yield from (f"  warning: it {text}" for text in document.get("remarks", ()))
    if document["reason"]:
        yield f"why: {document['reason']}"
        if document["doing"] and document["doing"] not in document["reason"]:
            yield f"  while doing this: {document['doing']}"


def reason_lines(document: dict[str, Any]) -> Iterator[str]:
    """The limits of a trial, what it beats and is beaten by, the runner-up, and its neighbours."""
    yield from _limit_lines(document["limits"])
    yield from _beaten_lines(document)
    if document["runner_up"]:
        yield from _runner_up_lines(document["runner_up"])
    if document["neighbours"]:
        yield "recipes that differ least, and what came of them:"
    for row in document["neighbours"]:
        yield f"  trial {row['trial']}: {'; '.join(_difference(each) for each in row['differs'])}"
        yield f"    {_result(row, document)}"


def _shown(document: dict[str, Any]) -> list[str]:
    """The metrics that recipes are held against each other by; the speed-up stands for latency."""
    names = dict.fromkeys(("size_bytes", document["quality"], "speedup", *document["objectives"]))
    return [name for name in names if name != "latency_ms"]


def step_rows(document: dict[str, Any]) -> list[list[str]]:
    """What each step of a trial bought and cost: a heading and rows of cells; none where nothing is known of it.

    Each metric has two cells, its value and what it changed by. A row of one cell says why nothing is known there.
    """
    rows = document["steps"]
    if not any(row["metrics"] for row in rows):
        return []
    names = _shown(document)
    heading = ["after step", *(cell for name in names for cell in (name, ""))]
    table = [heading, ["uncompressed", *_cells(names, document["baseline"])]]
    for row in rows:
        label = f"{row['step']} {recipe_line({'steps': [{'technique': row['technique'], **row['settings']}]})}"
        if row["metrics"]:
            table.append([label, *_cells(names, row["metrics"], row["change"], bool(row["speed_changed"]))])
        else:
            table.append([f"{label}: {row['note']}"])
    return table


def step_remarks(document: dict[str, Any]) -> Iterator[str]:
    """What the cells of the steps' table mean that do not say so."""
    if any(row["metrics"] for row in document["steps"]) and any(
        row["speed_changed"] is False for row in document["steps"]
    ):
        yield "~: no faster or slower than the 95% intervals allow for"


def transfer_lines(document: dict[str, Any]) -> Iterator[str]:
    """Whether what a trial takes from the uncompressed model helps it, as far as that was measured."""
    found = document.get("from_scratch")
    if found is None:
        return
    quality = document["quality"]
    if found["verdict"] is None:
        yield f"not held against the same network trained from scratch: {found['note']}"
        return
    own, other = (value_text(quality, row[quality], named=False) for row in (document["metrics"], found["metrics"]))
    told = f"{quality} {own}, and {other} trained from scratch by the same steps and epochs"
    match found["verdict"]:
        case "helps":
            yield f"transfer helps: {told} (one seed each)"
        case "harms":
            yield f"negative transfer: {told} (one seed each): take that recipe instead"
        case _:
            yield f"transfer neither helps nor harms as far as {found['examples']:,} examples tell: {told}"
    yield f"  {recipe_line(found['recipe'])}"


def _cells(names: list[str], metrics: Metrics, change: Metrics | None = None, speed_changed: bool = True) -> list[str]:
    """Two cells for each metric: its value, and what it changed by."""
    cells = []
    for name in names:
        cells.append(value_text(name, metrics[name], named=False) if name in metrics else "")
        if change is None or name not in change:
            cells.append("")
        elif name == "speedup" and not speed_changed:
            cells.append("~")
        else:
            cells.append(change_text(name, metrics[name] - change[name], metrics[name]))
    return cells


def _limit_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    for index, row in enumerate(rows):
        limit = limit_text(SimpleNamespace(**row))
        found = "not measured" if row["value"] is None else value_text(row["metric"], row["value"], named=False)
        if row["left"] < 0:
            yield f"past the limit on {row['label']} by {-row['left']:.1%}: {found}, {limit}"
        else:
            first = "the limit on" if index or row["left"] >= 1 else "the limit that binds:"
            yield f"{first} {row['label']}: {_left(row['left'])}: {found}, {limit}"


def _beaten_lines(document: dict[str, Any]) -> Iterator[str]:
    beaten = document["dominates"]
    if beaten:
        more = f", ... ({len(beaten)} in all)" if len(beaten) > NUMBERS else ""
        yield f"better in every objective, or as good, than trials {', '.join(map(str, beaten[:NUMBERS]))}{more}"
    elif document["on_front"]:
        yield "on the front as no trial beats it; it beats none in every objective"
    for row in document["dominated_by"]:
        if row["better_in"]:
            yield f"beaten by trial {row['trial']}: {_gap_text(row['better_in'])}, and as good or better in the rest"
        else:
            yield f"equal to trial {row['trial']} in every objective, of which the first is kept"


def _gap_text(rows: list[dict[str, Any]]) -> str:
    return ", ".join(
        f"{row['metric']} {value_text(row['metric'], row['there'], named=False)} against "
        f"{value_text(row['metric'], row['here'], named=False)} "
        f"({change_text(row['metric'], row['here'], row['there'])})"
        for row in rows
    )


def _runner_up_lines(row: dict[str, Any]) -> Iterator[str]:
    past = [f"past the limit on {label} by {value:.1%}" for label, value in row["past"].items()]
    lost = [*([_gap_text(row["lost_by"])] if row["lost_by"] else []), *past]
    told = f"lost by: {'; '.join(lost)}" if lost else "is equal in every objective, of which the first is kept"
    yield f"the runner-up, trial {row['trial']}, {told}"
    yield f"  {recipe_line(row['recipe'])}"


def _difference(row: Mapping[str, Any]) -> str:
    if row["setting"] == "order":
        return f"{' > '.join(row['there'])} instead of {' > '.join(row['here'])}"
    if row["setting"] is None:
        here = row["there"] is None
        step = recipe_line({"steps": [{"technique": row["technique"], **(row["here"] if here else row["there"])}]})
        return f"without {step}" if here else f"with {step}"
    return f"{row['technique']} {row['setting']} {_plain(row['there'])} instead of {_plain(row['here'])}"


def _result(row: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """What came of a neighbour, against the trial itself where both were measured."""
    metrics, own = row["metrics"], document["metrics"]
    names = [name for name in _shown(dict(document)) if name in metrics]
    parts = [
        value_text(name, metrics[name]) + (f" ({_against(name, own, row)})" if name in own else "") for name in names
    ]
    told = ", ".join(parts)
    if row["outcome"] == "completed":
        return told
    return f"{row['outcome']}{f' ({told})' if told else ''}: {row['reason']}"


def _against(name: str, own: Metrics, row: Mapping[str, Any]) -> str:
    if name == "speedup" and not row["speed_changed"]:
        return "~"
    return change_text(name, own[name], row["metrics"][name])
