"""What commands print when they are done: documents, fronts, and what to type next."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import AutocompressError, unwritten
from .ending import NOTHING_FINISHED, NOTHING_FITS, OK
from .options import DEFAULT_STORAGE
from .plain import output, print_json

if TYPE_CHECKING:
    from ..outcome import Limit
    from ..search.results import Results


def print_parts(document: object, as_json: bool, parts: Iterable[Any]) -> None:
    """A document as JSON, or what there is to read of it: tables, and lines that are never broken."""
    if as_json:
        print_json(document)
        return
    for part in parts:
        output().print(part, soft_wrap=isinstance(part, str))


def code_of(verdict: str) -> int:
    """The exit code of a study's verdict."""
    return {"feasible": OK, "infeasible": NOTHING_FITS, "nothing_finished": NOTHING_FINISHED}[verdict]


def front_parts(document: dict[str, Any], limits: Iterable["Limit"], quality: str) -> Iterator[Any]:
    """The front as a table, what its metrics do not tell, and the answer of the search."""
    from ..wording import verdict_lines, warning_lines
    from .views import front_table

    if document["front"]:
        yield front_table(f"{document['study']}: the front", document["front"], document["baseline"], quality)
    yield from warning_lines(document)
    yield from verdict_lines(document, limits, quality)


def front_csv(document: dict[str, Any]) -> str:
    """The baseline and the front as comma-separated values."""
    import pandas as pd

    from ..front import front_rows

    return str(pd.DataFrame(front_rows(document)).to_csv(index=False))


def print_front(results: "Results") -> None:
    """The front with its warnings, and the verdict; where nothing finished, the first reasons."""
    out = output()
    print_parts(None, False, front_parts(results.document(), results.limits, results.quality))
    if results.front.verdict == "nothing_finished":
        for number, record in list(results.records.items())[:5]:
            out.print(f"  trial {number}: {getattr(record.outcome, 'reason', '')}", soft_wrap=True)


def print_next(results: "Results", storage: str, config: str, interrupted: bool) -> None:
    """The commands to type next."""
    out = output()
    where = "" if storage == DEFAULT_STORAGE else f" --storage {storage}"
    shown = results.front.trials[0] if results.front.trials else results.front.nearest_miss
    rows = [f"autocompress ui{where}"]
    rows += [f"autocompress show {results.name} {shown}{where}"] if shown is not None else []
    rows += [f"autocompress export {results.name} --pick knee --out chosen{where}"] if results.front.trials else []
    more = "" if interrupted else f" --trials {2 * len(results.records) or 20}"
    rows += [f"autocompress search {config} --resume{more}"]
    for row in ("next:", *(f"  {row}" for row in rows)):
        out.print(row, soft_wrap=True)


def write_page(page: bytes, out: Path) -> None:
    """Write a page whole, or leave what was there; raises WriteError, and AutocompressError for a folder."""
    if out.is_dir():
        raise AutocompressError(f"--out {out}: is a folder: name a file in it, such as {out / 'report.html'}")
    temporary = out.with_name(f".{out.name}.part")
    try:
        temporary.write_bytes(page)
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritten(error, out) from error
