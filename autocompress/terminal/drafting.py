"""The command that writes a first config."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from ..config import study_name
from ..errors import ConfigError, unwritten
from .plain import say

USUAL = """budget:                # hard limits; take out what does not matter
  compression_ratio: 10  # times smaller than the uncompressed file, or size: 800 KB
"""
FASTER = "speedup: 1.5           # times as fast, or latency: 5 ms\n"
DROP = "  accuracy_drop: 0.01    # at most this share of accuracy lost\n"
OTHER = "  # metrics: {{{quality}: 0.8}}   # `autocompress plan` shows what the uncompressed model has{more}\n"
NETWORKS_OF_MICROSECONDS = ("tabular", "time_series")


def init(
    data: Annotated[Path, typer.Argument(help="A folder of images or sounds, a table, an NPZ file, or weights.")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("search.yaml"),
) -> None:
    """Write a first config with comments, after looking at your data or weights; what it guessed is said there."""
    if out.exists():
        raise ConfigError(f"{out}: is there already: name another file by --out")
    from ..tasks.drafts import draft

    place = data if data.is_absolute() else Path(os.path.relpath(data, out.parent))
    found = draft(data, place.as_posix())
    name = study_name((data if data.is_dir() else data.with_suffix("")).resolve().name)
    lines = [f"# What {data.name} looks like; change what is wrong. All keys: the README.", f"study: {name}", "task:"]
    lines += [line for key, value in found.task.items() for line in _entry(key, value, found.said.get(key, ""))]
    # Networks for tables and series take microseconds, most of them to be called at all.
    faster = f"  # {FASTER}" if found.task["kind"] in NETWORKS_OF_MICROSECONDS else f"  {FASTER}"
    text = "\n".join(lines) + "\n" + USUAL + faster
    if found.quality == "accuracy":
        text += DROP
    else:
        more = "; or {mae: {at_most: 0.3}}" if found.quality == "r2" else ""
        text += OTHER.format(quality=found.quality, more=more)
        text += f"objectives: [size_bytes, {found.quality}, latency_ms]\n"
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise unwritten(error, out) from error
    say(f"{out}: next, autocompress plan {out}")


def _entry(key: str, value: Any, said: str) -> list[str]:
    """A key of the task with what is said of it, which stands above where it is long."""
    written = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000)
    text = f"{key}: {written.removesuffix('...' + chr(10)).strip()}"
    if not said:
        return [f"  {text}"]
    line = f"  {text:<40} # {said}"
    return [line] if len(line) <= 120 else [f"  # {said}", f"  {text}"]
