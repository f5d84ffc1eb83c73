"""The one way to the terminal: text of recipes, files and studies is shown, and steers nothing.

Everything is written through a Screen, and nothing else in this package makes a rich Console or Text.
"""

import json
import sys
from typing import TextIO

from rich.console import Console, HighlighterType, JustifyMethod, OverflowMethod
from rich.style import Style
from rich.text import Text

from ..wording import visible


def plain(text: str, style: str | Style = "", one_line: bool = False) -> Text:
    """The text in a style, without markup; one_line: cut at the edge of the screen."""
    return Text(visible(text), style=style, overflow="ellipsis" if one_line else None, no_wrap=one_line or None)


class Screen(Console):
    """A rich console on which every string is plain text: lines, cells, headings and titles."""

    def render_str(
        self,
        text: str,
        *,
        style: str | Style = "",
        justify: JustifyMethod | None = None,
        overflow: OverflowMethod | None = None,
        emoji: bool | None = None,
        markup: bool | None = None,
        highlight: bool | None = None,
        highlighter: HighlighterType | None = None,
    ) -> Text:
        """The string as it stands; markup, emoji and highlighting are for texts that are known beforehand."""
        return Text(visible(text), style=style, justify=justify, overflow=overflow)


def output() -> Screen:
    """Standard output, for results."""
    # Pipes have no width of their own: a wide one keeps a row of a table, or a recipe, on one line.
    return Screen(width=None if sys.stdout.isatty() else 200, highlight=False)


def messages() -> Screen:
    """Standard error, for everything else."""
    return Screen(stderr=True, highlight=False)


def write_lines(file: TextIO, text: str) -> None:
    """Lines for other programs, such as comma-separated values, as they are but for what would steer a terminal."""
    file.write("\n".join(visible(line) for line in text.split("\n")))


def print_json(value: object) -> None:
    """One JSON document on standard output; it has escapes of its own."""
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


def say(line: str) -> None:
    """One line on standard error, never broken."""
    messages().print(line, soft_wrap=True)
