"""The command line: parses, calls and prints."""

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..errors import AutocompressError
from ..urls import is_server, shown
from ..wording import size
from .answers import code_of, print_front, print_next, print_parts, write_page
from .drafting import init
from .ending import BAD, INTERRUPTED, NOTHING_FITS, OK, exit_code
from .options import (
    ColdOption,
    ConfigArgument,
    ConfigOption,
    DevicesOption,
    FigureOption,
    JsonOption,
    MeasureOption,
    Pick,
    ProgramOption,
    ReportOption,
    StorageOption,
    StudyArgument,
    TrialArgument,
    UntilOption,
    Workers,
    storage_url,
)
from .plain import output, print_json, say, write_lines
from .remote import attach, cancel, logs, or_at_server, pause, resume
from .serving import serve, token

if TYPE_CHECKING:
    from ..search.results import Results

app = typer.Typer(
    name="autocompress",
    help="Search compression recipes for a PyTorch model under a hardware budget, measured on the exported ONNX file.",
    epilog="Start with: autocompress search mnist5k_lenet (bundled, about 4 minutes on 2 cores).",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for command in (init, serve, attach, logs, pause, resume, cancel):
    app.command()(command)
app.add_typer(token, name="token")


@app.command()
@or_at_server
def search(
    config: ConfigArgument,
    trials: Annotated[int | None, typer.Option(help="How many recipes to try; overrides the config.")] = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            metavar="T", help="Begin nothing after this long (90s, 10m, 2h); what runs has a tenth more, or a minute."
        ),
    ] = None,
    until: UntilOption = None,
    workers: Annotated[int | None, typer.Option(help="How many trials to run at once.")] = None,
    executor: Annotated[Workers, typer.Option(help="Ray workers, or this process.")] = Workers.ray,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study of this config.")] = False,
    cold: ColdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run or resume a study; ends with the front, the verdict on the budget, and where to look next.

    Ctrl-C once waits for the running trials, twice stops at once; both can be resumed.
    """
    from ..config import find_config, load_config

    path = find_config(config)
    checked = load_config(path, trials=trials, timeout=timeout, until=until, workers=workers, cold=cold)
    from .views import on_standard_error

    with on_standard_error() as view:
        from ..search.run import run_search

        result = run_search(checked, executor.value, resume, view)
    from ..search.results import Results

    results = Results(result.store)
    if as_json:
        print_json(results.document())
    else:
        print_front(results)
        if result.ended:
            output().print(result.ended, soft_wrap=True)
        print_next(results, checked.storage, config, result.interrupted)
    raise typer.Exit(INTERRUPTED if result.interrupted else code_of(results.front.verdict))


@app.command()
@or_at_server
def plan(
    config: ConfigArgument,
    executor: Annotated[Workers, typer.Option(help="Where to train the baseline.")] = Workers.inline,
    as_json: JsonOption = False,
) -> None:
    """Dry run: the resolved config, the baseline's measurements, the size of the space and the estimated time."""
    from ..config import find_config, load_config

    checked = load_config(find_config(config))
    from .views import on_standard_error

    with on_standard_error() as view:
        from ..search.run import plan as make_plan

        planned = make_plan(checked, executor.value, view)
    from .planning import plan_document, plan_parts

    document = plan_document(planned)
    print_parts(document, as_json, plan_parts(document))


@app.command("list")
@or_at_server
def list_studies(storage: StorageOption = None, as_json: JsonOption = False) -> None:
    """List the studies of a storage."""
    from ..search.results import Results
    from ..search.storage import study_names
    from ..search.store import StudyStore

    url = storage_url(storage)
    rows = []
    for name in study_names(url):
        results = Results(StudyStore.open(url, name))
        counts = results.front.counts
        rows.append({"study": name, "verdict": results.front.verdict, "front": len(results.front.trials), **counts})
    if as_json:
        print_json(rows)
    elif rows:
        table = Table("study", "verdict", "front", "completed", "infeasible", "stopped", "failed", box=None)
        for row in rows:
            table.add_row(*(str(value) for value in row.values()))
        output().print(table)
    else:
        say(f"no studies in {shown(url)}: start one with autocompress search CONFIG")


def _results(study: str, storage: str | None) -> "Results":
    from ..search.results import Results
    from ..search.store import StudyStore

    return Results(StudyStore.open(storage_url(storage), study))


@app.command()
@or_at_server
def front(
    study: StudyArgument,
    storage: StorageOption = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
) -> None:
    """Show the front of a study: every candidate that meets the budget and that no other beats."""
    results = _results(study, storage)
    document = results.document()
    if as_json:
        print_json(document)
    elif as_csv:
        from .answers import front_csv

        write_lines(sys.stdout, front_csv(document))
    else:
        print_front(results)
    raise typer.Exit(code_of(results.front.verdict))


@app.command()
@or_at_server
def show(
    study: StudyArgument,
    trial: Annotated[int, typer.Argument(help="A trial's number.")],
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one trial: its recipe, what happened to each layer, its measurements and where its time went."""
    results = _results(study, storage)
    from ..search.prefixes import transfer_of
    from .details import trial_lines, untold_lines

    document = {**results.trial(trial), "quality": results.quality, "from_scratch": transfer_of(results, trial)}

    print_parts(document, as_json, [*trial_lines(document, results.baseline), *untold_lines(document)])


@app.command()
@or_at_server
def explain(
    study: StudyArgument,
    trial: TrialArgument = None,
    measure: MeasureOption = True,
    figure: FigureOption = None,
    config: ConfigOption = None,
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain a study, or why one of its trials won or lost.

    Of a study: which limit binds, where the workers' time went, and which settings mattered for each objective. Of a
    trial: what each step bought and cost, what it beats and is beaten by, the runner-up, the limit that binds, and the
    recipes beside it. What is not known of the model after each step is measured once, and kept with the study.
    """
    results = _results(study, storage)
    from ..config import find_config, load_config
    from .explaining import Asked, explained

    checked = load_config(find_config(config)) if config else None
    document, parts = explained(results, trial, Asked(measure, figure, checked))
    print_parts(document, as_json, parts)


@app.command()
def report(
    study: StudyArgument,
    out: ReportOption = Path("report.html"),
    storage: StorageOption = None,
) -> None:
    """Write a study as one HTML page that needs no network: to look at the front and choose from it.

    It holds the budget and the verdict, the front as pictures and as a table, each recipe with what its steps did and
    why it is there, where the time went, and the commands to type next. It can be sent to others as it is. Nothing is
    run or measured for it: `explain STUDY TRIAL` measures what each step of a trial bought, which is then shown too.
    """
    from ..search.report import study_page

    results = _results(study, storage)
    write_page(study_page(results, storage_url(storage)), out)
    output().print(f"written: {out} ({size(out.stat().st_size)}); open it in a browser", soft_wrap=True)


@app.command()
@or_at_server
def export(
    study: StudyArgument,
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    trial: Annotated[int | None, typer.Option(help="A trial's number.")] = None,
    pick: Annotated[Pick | None, typer.Option(help="Choose from the front; knee if nothing is said.")] = None,
    config: ConfigOption = None,
    pt2: ProgramOption = False,
    devices: DevicesOption = False,
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a trial's artifact directory (ONNX file, recipe, decisions, measurements, checksums) and verify it."""
    results = _results(study, storage)
    from ..config import find_config, load_config
    from ..search.deliver import Extras, choose, export_trial

    checked = load_config(find_config(config)) if config else None
    number = choose(results, trial, pick.value if pick else None)
    say(f"exporting trial {number}: {results.record(number).recipe}")
    with contextlib.redirect_stdout(sys.stderr):
        measurement = export_trial(results, number, out, Extras(pt2, devices), checked)
    from .details import delivery_parts

    print_parts(measurement, as_json, delivery_parts(measurement, out))


@app.command()
def apply(
    recipe: Annotated[Path, typer.Argument(help="A recipe (YAML).")],
    config: Annotated[str, typer.Option(help="The config whose task the recipe is applied to.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    seed: Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="Overrides the config's seed.")] = None,
    pt2: ProgramOption = False,
    devices: DevicesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run one recipe on a task, without a search, and write its artifact directory.

    The recipe decides anew: give another seed, or a config with other weights or another model. Where the recipe lies
    in an artifact directory, what differs from that is shown.
    """
    from ..config import find_config, load_config

    checked = load_config(find_config(config), seed=seed)
    from ..search.deliver import Extras, apply_recipe
    from ..techniques import load_recipe
    from .changes import artifact_beside, artifact_of, change_parts, changes
    from .details import delivery_parts

    steps = load_recipe(recipe)
    there = artifact_beside(recipe, say)
    with contextlib.redirect_stdout(sys.stderr):
        measurement = apply_recipe(steps, checked, out, Extras(pt2, devices))
    changed = changes(there, artifact_of(out)) if there else None
    parts = (*delivery_parts(measurement, out), *(change_parts(changed) if changed else ()))
    print_parts({**measurement, "changed": changed}, as_json, parts)
    over = [label for label, value in measurement["violations"].items() if value > 0]
    if over:
        say(f"past the limit on {', '.join(over)}")
        raise typer.Exit(NOTHING_FITS)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An artifact directory.")],
    config: Annotated[
        str | None, typer.Option(help="The config whose task measures quality; else the study's.")
    ] = None,
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure an artifact directory again and compare with what it claims.

    Nothing in the directory is run but its model. The task comes from --config, or from the study of that name in your
    own storage.
    """
    if not folder.is_dir():
        raise AutocompressError(f"{folder}: no such folder: name an artifact directory")
    from ..search.verify import task_of
    from ..search.verify import verify as check

    with contextlib.redirect_stdout(sys.stderr):
        document = check(folder, task_of(folder, config, storage_url(storage)))
    from .details import verify_parts

    print_parts(document, as_json, verify_parts(document))
    raise typer.Exit(BAD if document["wrong"] else OK)


@app.command()
def techniques(as_json: JsonOption = False) -> None:
    """List every registered technique with its family, settings, defaults and what it may follow."""
    from .details import technique_documents, technique_lines

    documents = technique_documents()
    print_parts(documents, as_json, technique_lines(documents))


@app.command()
def ui(
    uri: Annotated[str | None, typer.Option(help="The tracking store; else that of the newest study.")] = None,
    storage: StorageOption = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Open the MLflow UI on the study's tracking store; Ctrl-C ends it."""
    from ..search.storage import check_tracking
    from .details import tracking_place

    store, page = (uri, "") if uri else tracking_place(storage_url(storage))
    if is_server(store):
        output().print(f"the tracking server is at {shown(store)}", soft_wrap=True)
        if page:
            output().print(f"the newest search: {shown(store).rstrip('/')}/{page}", soft_wrap=True)
        return
    check_tracking(store, there=True)
    say(f"MLflow starts on http://127.0.0.1:{port}: open it once it says below that it runs (Ctrl-C ends it)")
    if page:
        say(f"the newest search: http://127.0.0.1:{port}/{page}")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"])


@app.command()
def doctor(storage: StorageOption = None, as_json: JsonOption = False) -> None:
    """Check versions, cores, instructions, ports and storage; says what is missing and how to get it."""
    from .details import diagnose

    rows = diagnose(storage_url(storage))
    if as_json:
        print_json(rows)
    else:
        table = Table(box=None, show_header=False)
        for row in rows:
            table.add_row("ok" if row["ok"] else "!!", row["what"], row["found"], row["fix"])
        output().print(table)
    raise typer.Exit(OK if all(row["ok"] for row in rows) else BAD)


def main() -> None:
    """Run the command line."""
    sys.exit(exit_code(lambda: app(prog_name="autocompress", standalone_mode=False)))
