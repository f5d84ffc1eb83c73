"""Numbers, limits and verdicts as people read them, in whatever they are shown: plain text, made of plain values."""

from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from .recipe import recipe_line

# Limits come as Any: the terminal and pages have them as plain values too.
SIZES = (("GB", 1e9), ("MB", 1e6), ("KB", 1e3), ("B", 1.0))
LIMIT_UNITS = {"latency": " ms", "speedup": "x", "compression_ratio": "x"}
TYPES = ("completed", "infeasible", "stopped", "failed")
SHARES = ("size_bytes", "params", "nonzero_params", "speedup", "compression_ratio", "latency_ms")
TRAINING = "train"
# Spaces within words, and the joiners that scripts and emoji need.
LAYOUT = {" ", "\u00a0", "\u202f", "\u200c", "\u200d"}


def visible(text: str) -> str:
    """The text in one line, with what would steer a terminal or a reader (escapes, controls, directions) spelt out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in LAYOUT else c.encode("unicode_escape").decode() for c in text)


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def counted(count: int, word: str) -> str:
    """So many of a thing: 1 worker, 2 workers."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def size(value: float) -> str:
    """Bytes in B, KB, MB or GB."""
    for unit, scale in SIZES[:-1]:
        if value >= scale:
            return f"{value / scale:.1f} {unit}"
    return f"{value:.0f} B"


def number(name: str, value: float) -> str:
    """A metric as people read it."""
    if name == "size_bytes":
        return f"{value:,.0f} ({size(value)})"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def value_text(name: str, value: float, named: bool = True) -> str:
    """A metric as people read it, with its name where the unit does not say it."""
    if name == "size_bytes":
        return size(value)
    if name == "speedup":
        return f"{value:.2f}x" + (" as fast" if named else "")
    text = f"{value:.4f}" if 0.01 <= abs(value) < 1 else number(name, value)
    return f"{name} {text}" if named else text


def change_text(name: str, before: float, after: float) -> str:
    """What a metric became more by or less: a share of sizes and speeds, the difference of others."""
    if name in SHARES and before:
        return f"{after / before - 1:+.1%}"
    return f"{after - before:+.4f}"


def limit_text(limit: Any) -> str:
    """A limit in words."""
    bound = size(limit.bound) if limit.metric == "size_bytes" else f"{limit.bound:.4g}"
    return f"{limit.metric} {'at most' if limit.sense == 'at_most' else 'at least'} {bound}"


def metric_cells(metrics: dict[str, float], quality: str) -> list[str]:
    """A row of a front: size, times smaller, quality, quality on the test split, milliseconds, and times as fast."""
    interval = ""
    if "speedup_low" in metrics and metrics.get("speedup") != 1.0:
        interval = f" ({metrics['speedup_low']:.2f}-{metrics['speedup_high']:.2f})"
    return [
        size(metrics["size_bytes"]) if "size_bytes" in metrics else "",
        f"{metrics['compression_ratio']:.1f}x" if "compression_ratio" in metrics else "",
        f"{metrics[quality]:.4f}" if quality in metrics else "",
        f"{metrics[f'test_{quality}']:.4f}" if f"test_{quality}" in metrics else "",
        f"{metrics['latency_ms']:.4f}" if "latency_ms" in metrics else "",
        f"{metrics['speedup']:.2f}x{interval}" if "speedup" in metrics else "",
    ]


def warning_lines(document: dict[str, Any]) -> list[str]:
    """What the metrics of the front do not tell, one line each."""
    return [f"warning: trial {row['trial']} {text}" for row in document["front"] for text in row.get("remarks", ())]


def verdict_lines(document: dict[str, Any], limits: Iterable[Any], quality: str) -> list[str]:
    """The answer of a search, in sentences."""
    counts = document["counts"]
    total = sum(counts.values())
    tally = ", ".join(f"{counts[name]} {name}" for name in TYPES if counts[name])
    budget = ", ".join(limit_text(limit) for limit in limits) or "no limits"
    lines = [f"{total} trials: {tally}" if total else "no trials ended"]
    match document["verdict"]:
        case "feasible":
            lines.append(f"feasible: {len(document['front'])} on the front meet the budget ({budget})")
        case "infeasible":
            miss = document["nearest_miss"]
            found = " ".join(metric_cells(miss["metrics"], quality)).strip()
            lines.append(f"infeasible: nothing meets the budget ({budget})")
            lines.append(f"nearest miss: trial {miss['trial']}: {found}: {recipe_line(miss['recipe'])}")
            lines.append(f"the limit that binds: {document['binding_limit']}: loosen it, or search longer")
            lines += loosening_lines(document.get("loosen", []))
        case _:
            lines.append("nothing finished: see the reasons with `autocompress show`")
    return [*lines, *gain_lines(document.get("expected_gain"))]


def gain_lines(found: dict[str, Any] | None) -> list[str]:
    """What more trials are expected to add to the hypervolume, as shares of it; nothing where that is not known."""
    if found is None:
        return []
    gain, low, high = (f"{100 * found[key] / found['hypervolume']:.2g}%" for key in ("gain", "low", "high"))
    return [
        f"another {found['trials']} trials ({clock(found['seconds'])} of a worker's time) are expected to add {gain} "
        f"to the front's hypervolume (8 times of 10 between {low} and {high})"
    ]


def loosening_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """To what the limits would have to be loosened, in the units of the budget: each alone, and all together."""
    lines = ["what was measured would meet the budget with"] if rows else []
    for row in rows:
        if row["alone"] is None:
            lines.append(f"  {row['limit']} alone: at no value, as no trial meets all other limits")
        else:
            lines.append(f"  {row['limit']} alone at {limit_value(row, row['alone'])} (trial {row['trial']})")
    past = [row for row in rows if row["together"] != row["bound"]]
    if len(past) > 1:
        values = [f"{r['limit']} at {limit_value(r, r['together'])}" for r in past if r["together"] is not None]
        unknown = [f"{row['limit']} is not known" for row in past if row["together"] is None]
        lines.append(f"  or, for the nearest miss, {', '.join([*values, *unknown])}")
    return lines


def limit_value(row: dict[str, Any], value: float) -> str:
    """A loosened limit to write into a budget, in three digits and no tighter than the value."""
    name, up = row["limit"], row["sense"] == "at_most"
    unit, scale = next(((u, s) for u, s in SIZES if value >= s), SIZES[-1]) if name == "size" else ("", 1.0)
    text = _three_digits(value, scale, up)
    if name.endswith("_drop"):
        return f"{text} ({_three_digits(value, 0.01, up)} points)"
    return f"{text} {unit}" if unit else text + LIMIT_UNITS.get(name, "")


def _three_digits(value: float, scale: float, up: bool) -> str:
    """A multiple of the scale in three digits that is no less than the value (up), or no more."""
    exact = Decimal(value / scale)
    step = Decimal(1).scaleb(exact.adjusted() - 2 if exact else 0)
    rounded = exact.quantize(step, ROUND_HALF_EVEN)
    while float(rounded) * scale < value if up else float(rounded) * scale > value:
        rounded += step if up else -step
    return f"{rounded:f}"


def metric_lines(metrics: dict[str, float], baseline: dict[str, float]) -> list[str]:
    """Every metric beside the baseline's."""
    width = max((len(name) for name in metrics), default=0)
    rows = []
    for name, value in metrics.items():
        before = f"  (uncompressed {number(name, baseline[name])})" if name in baseline else ""
        rows.append(f"{name:{width}}  {number(name, value)}{before}")
    return rows


def second_lines(seconds: dict[str, float]) -> list[str]:
    """Where a trial's time went."""
    total = sum(seconds.values())
    if not total:
        return []
    rows = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
    overhead = total - seconds.get(TRAINING, 0.0)
    return [f"seconds: {rows}; {total:.2f} in all, {overhead / total:.0%} of them not training"]


def decision_lines(decision: dict[str, Any]) -> list[str]:
    """What a step did, layer by layer, from the parts of its decision that people can read."""
    lines = []
    for key, value in decision.items():
        if key in (
            "codes",
            "history",
            "inputs",
            "masks",
        ):  # positions of channels and weights, and shapes, for rebuilding
            continue
        if isinstance(value, dict):
            lines += [f"{key} {name}: {short(item)}" for name, item in value.items()]
        else:
            lines.append(f"{key}: {short(value)}")
    return lines


def short(value: Any, most: int = 8) -> str:
    """A plain value of a recipe or a decision, cut where it is long."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        shown = ", ".join(short(item) for item in value[:most])
        return f"{shown}, ... ({len(value)} in all)" if len(value) > most else shown
    if isinstance(value, dict):
        return "; ".join(f"{key} {short(item, most=3)}" for key, item in value.items())
    return str(value)
