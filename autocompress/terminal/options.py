"""What the commands' arguments and options are, and how a shell completes them."""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..environment import from_environment
from ..errors import AutocompressError

DEFAULT_STORAGE = "sqlite:///autocompress.db"


class Workers(StrEnum):
    """Where trials run."""

    ray = "ray"
    inline = "inline"


class Controllers(StrEnum):
    """What the service runs searches as."""

    process = "process"
    ray = "ray"


class Pick(StrEnum):
    """How to choose from a front."""

    smallest = "smallest"
    fastest = "fastest"
    most_accurate = "most-accurate"
    knee = "knee"


def _complete_study(ctx: typer.Context, incomplete: str) -> list[str]:
    from ..search.storage import study_names

    try:
        return _typeable(study_names(storage_url(ctx.params.get("storage")), wait=0.5), incomplete)
    except AutocompressError:
        return []


def _complete_trial(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """The trials of the front, and the others where what is typed begins so, each with its recipe."""
    from ..recipe import recipe_line
    from ..search.results import Results
    from ..search.store import StudyStore

    try:
        results = Results(StudyStore.open(storage_url(ctx.params.get("storage")), ctx.params.get("study") or ""))
    except AutocompressError:
        return []
    numbers = results.records if incomplete else results.front.trials or results.records
    told = [(str(number), recipe_line(results.records[number].recipe_data)) for number in numbers]
    return [(name, line) for name, line in told if name.startswith(incomplete) and line.isprintable()]


def _complete_config(incomplete: str) -> list[str]:
    from ..config import FOLDERS

    bundled = [path.parent.name for path in FOLDERS["experiments"].glob("*/search.yaml")]
    return _typeable([*bundled, *map(str, Path().glob(f"{incomplete}*"))], incomplete)


def _typeable(names: Iterable[str], incomplete: str) -> list[str]:
    """The names that begin so, but for those that nobody can type and no shell should be told."""
    return [name for name in names if name.startswith(incomplete) and name.isprintable()]


ConfigArgument = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG",
        help="A search config (YAML), or a bundled experiment's name.",
        autocompletion=_complete_config,
    ),
]
StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="A study's name.", autocompletion=_complete_study)]
TrialArgument = Annotated[
    int | None,
    typer.Argument(
        metavar="TRIAL", help="A trial's number; the whole study if none is given.", autocompletion=_complete_trial
    ),
]
ConfigOption = Annotated[
    str | None, typer.Option(help="The study's config, where its folder is no longer where it was.")
]
MeasureOption = Annotated[
    bool,
    typer.Option(" /--no-measure", help="Show what is known of a trial's steps; measure nothing.", show_default=False),
]
FigureOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Also draw what each step of the trial did, to a .png or .svg file."),
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        envvar="AUTOCOMPRESS_STORAGE", metavar="URL", help=f"Where studies are kept. Default: {DEFAULT_STORAGE}."
    ),
]
ReportOption = Annotated[
    Path, typer.Option("--out", metavar="FILE", help="The page to write; one that is there is replaced.")
]
ColdOption = Annotated[
    bool | None, typer.Option("--cold", help="Begin with no recipes of earlier studies in the storage.")
]
UntilOption = Annotated[
    str | None,
    typer.Option(metavar="GOAL", help="Stop once a trial meets this: 'size <= 20 KB and accuracy_drop <= 0.01'."),
]
DevicesOption = Annotated[
    bool,
    typer.Option(
        "--devices",
        help="Also write a file for each student of a recipe with `nonn`, and one that joins what they send, to run on "
        "several devices.",
    ),
]
ProgramOption = Annotated[
    bool,
    typer.Option(
        "--pt2",
        help="Also write model.pt2, a torch.export program of the compressed model in float: steps that encode the "
        "ONNX file (int8, low_bit, ...) do not act on it.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document and nothing else on standard output.")
]


def storage_url(url: str | None) -> str:
    """The storage that a command means: the one it is given, else the environment's or its file's, else the usual one.

    Raises ConfigError where AUTOCOMPRESS_STORAGE_FILE cannot be read.
    """
    return url or from_environment("AUTOCOMPRESS_STORAGE") or DEFAULT_STORAGE
