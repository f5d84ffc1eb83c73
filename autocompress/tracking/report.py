"""A study as one page that needs no network: budget, verdict, front, recipes, and why."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..wording import visible
from .figures import Picture, front_figure, front_png, speed_figure
from .protocol import Member

LINES = 200  # of what one step did: a large model has many layers


@dataclass(frozen=True)
class Spent:
    """Seconds that went into something, and their share of the whole."""

    name: str
    seconds: float
    share: float


@dataclass(frozen=True)
class Done:
    """What one step of a recipe did, layer by layer."""

    step: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Section:
    """A recipe: its steps, what they bought and cost, why it is where it is, what was measured, and what to type.

    effects is a table with its heading first, empty where nothing is known; metrics are rows of name, here and before.
    """

    number: int
    picks: Sequence[str]
    steps: Sequence[str]
    remarks: Sequence[str]
    effects: Sequence[Sequence[str]]
    reasons: Sequence[str]
    metrics: Sequence[tuple[str, str, str]]
    done: Sequence[Done]
    seconds: Sequence[Spent]
    commands: Sequence[str]


@dataclass(frozen=True)
class Report:
    """What the page says, as plain text: nothing of it is markup, and lines that begin with a space belong deeper."""

    study: str
    quality: str
    budget: Sequence[str]
    verdict: Sequence[str]
    about: str
    heading: Sequence[str]
    baseline: Sequence[str]
    members: Sequence[Member]
    lines: Sequence[str]
    spent: Sequence[Spent]
    phases: Sequence[Spent]
    commands: Sequence[str]
    sections: Sequence[Section]
    picture: Picture


def shares(seconds: Mapping[str, float]) -> list[Spent]:
    """Seconds by name with their share of the sum, most first; none where there is no sum."""
    total = sum(seconds.values())
    rows = [Spent(name, value, value / total) for name, value in seconds.items()] if total > 0 else []
    return sorted(rows, key=lambda row: -row.seconds)


def report_html(report: Report) -> bytes:
    """The page as one file: script, style, figures and a still picture for those without script are in it.

    Every text is escaped, and the page's own policy lets nothing run or load that is not part of it.
    """
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    css, script, plotly = beside("report.css"), beside("figures.js") + beside("report.js"), str(get_plotlyjs())
    page: str = (
        templates()
        .get_template("report.html.j2")
        .render(
            report=report,
            policy=_policy(css, plotly, script),
            css=Markup(css),
            plotly=Markup(plotly),
            script=Markup(script),
            figures=Markup(_embedded(figures(report.picture))),
            unused=unused_styles(plotly),
            still=base64.b64encode(front_png(report.picture)).decode(),
        )
    )
    return page.encode("utf-8", "replace")


def figures(picture: Picture) -> dict[str, Any]:
    """The figures of a front as plotly's JSON, by the name of their place on a page."""
    drawn = {"quality": front_figure(picture), "speed": speed_figure(picture)}
    return {name: json.loads(figure.to_json()) for name, figure in drawn.items()}


def templates(*folders: Path) -> Any:
    """The templates of these folders and the ones beside this file; every text that they are given is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_spelt,
    )


def _spelt(value: Any) -> Any:
    """What is shown of a value: text without what would turn or hide it, and what is part of the page as it is."""
    return visible(value) if type(value) is str else value


def beside(name: str) -> str:
    """A part of a page that is kept beside this file: a script or a style."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def unused_styles(plotly: str) -> list[str]:
    """Names of elements for a page: where they are, plotly adds no styles for its maps, which a policy would refuse."""
    return re.findall(r'getElementById\("([0-9a-f]{64})"\)', plotly)


def _policy(css: str, *scripts: str) -> str:
    """What the page may run and load: these scripts and this style, by their hashes, and pictures within it."""
    hashes = " ".join(_hash(text) for text in scripts)
    # Attributes alone: plotly moves and colours parts of its drawings by them.
    style = f"style-src {_hash(css)}; style-src-attr 'unsafe-inline'"
    return f"default-src 'none'; script-src {hashes}; {style}; img-src data: blob:; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _embedded(value: Any) -> str:
    """JSON that no text in it can end the script element of."""
    return json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
