"""Commands on a server: those that are only there, and --server for those that are also here."""

import functools
import inspect
import io
import json
import sys
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..errors import AutocompressError, ServiceError
from .answers import code_of, front_csv, front_parts, print_parts
from .ending import INTERRUPTED
from .options import JsonOption
from .plain import output, print_json, say, write_lines
from .serving import need_extra

if TYPE_CHECKING:
    from ..config import SearchConfig
    from ..service.client import Client, Happened

ServerOption = Annotated[
    str | None,
    typer.Option(
        envvar="AUTOCOMPRESS_SERVER", metavar="URL", help="A server that does it, in the place of this machine."
    ),
]
RunOption = Annotated[
    int | None, typer.Option(min=1, help="Which run of its controller; the last one if none is given.")
]
RemoteStudy = Annotated[str, typer.Argument(metavar="STUDY", help="A search of yours on the server.")]
TrialsOption = Annotated[int | None, typer.Option(min=1, help="How many recipes to try, with those that were tried.")]
TimeoutOption = Annotated[str | None, typer.Option(metavar="T", help="For how long in all: 90s, 10m, 2h.")]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="How many trials to run at once.")]


def or_at_server(command: Callable[..., None]) -> Callable[..., None]:
    """A command with one more option, --server, by which the function of its name in REMOTELY takes its place."""

    @functools.wraps(command)
    def either(server: str | None = None, **given: Any) -> None:
        if server is None:
            command(**given)
            return
        with _client(server) as client:
            REMOTELY[command.__name__](client, given)

    signature, more = inspect.signature(command), inspect.Parameter("server", inspect.Parameter.KEYWORD_ONLY)
    added = more.replace(default=None, annotation=ServerOption)
    vars(either)["__signature__"] = signature.replace(parameters=[*signature.parameters.values(), added])
    either.__annotations__ = {**command.__annotations__, "server": ServerOption}
    return either


@contextmanager
def _client(server: str | None) -> "Iterator[Client]":
    if server is None:
        raise ServiceError("no server: give --server URL, or set AUTOCOMPRESS_SERVER")
    need_extra()
    from ..service.client import Client, find_token

    with Client(server, find_token()) as client:
        yield client


def _refuse(given: dict[str, Any], **fixes: str) -> None:
    """Raise ServiceError for options that a server does not take."""
    for name, fix in fixes.items():
        if given.get(name):
            raise ServiceError(f"--{name.replace('_', '-')}: is not for searches on a server: {fix}")


def _search(client: "Client", given: dict[str, Any]) -> None:
    _refuse(given, until="write `until:` into the config", cold="write `cold:` into the config")
    from ..config import find_config, load_config

    path = find_config(given["config"])
    config = load_config(path, **{name: given[name] for name in ("trials", "timeout", "workers")})
    if given["resume"] and any(row["study"] == config.study for row in client.searches()):
        _change(client, config.study, given)
        client.ask(config.study, "resume")
        after = client.get(config.study)["events"]
    else:
        _upload(client, path, config, given)
        after = 0
    _watch(client, config.study, after, given["as_json"])


def _upload(client: "Client", path: Path, config: "SearchConfig", given: dict[str, Any]) -> None:
    """Submit the folder of a config."""
    form = {
        "config": path.name,
        "study": config.study,
        "trials": given["trials"],
        "timeout_s": config.search.timeout,
        "workers": given["workers"],
    }
    client.submit(_packed(client, path), form, uuid.uuid4().hex)


def _packed(client: "Client", path: Path) -> bytes:
    """The folder of a config as an archive: what would travel to workers."""
    from ..service.archives import pack

    packed = pack(path.resolve().parent)
    for name, reason in list(packed.left_out.items())[:20]:
        say(f"left out: {name}: {reason}")
    if len(packed.left_out) > 20:
        say(f"left out: {len(packed.left_out) - 20} more")
    say(f"uploading {path.resolve().parent} ({len(packed.data) / 1e6:.1f} MB) to {client.url}")
    return packed.data


def _plan(client: "Client", given: dict[str, Any]) -> None:
    from ..config import find_config, load_config
    from .planning import plan_parts

    path = find_config(given["config"])
    study = load_config(path).study
    archive = _packed(client, path)
    say("the server measures the baseline: this takes a while")
    document = client.plan(archive, {"config": path.name, "study": study})
    print_parts(document, given["as_json"], plan_parts(document))


def _explain(client: "Client", given: dict[str, Any]) -> None:
    _refuse(given, config="a search on a server has its own")
    figure, study, trial = given["figure"], given["study"], given["trial"]
    document = client.explain(study, trial)
    if figure is not None:
        _draw(client, study, trial, figure)
    from ..search.reasons import study_lines
    from .explaining import trial_parts

    if trial is not None:
        parts: Iterable[Any] = trial_parts(document)
    else:
        from ..outcome import Limit

        front = client.front(study)
        parts = study_lines(document, [Limit(**row) for row in front["limits"]], front["quality"])
    print_parts(document, given["as_json"], parts)


def _draw(client: "Client", study: str, trial: int | None, figure: Path) -> None:
    from ..errors import unwritten

    if trial is None:
        raise AutocompressError("--figure draws what the steps of one trial did: give a trial's number")
    if figure.suffix.lower() != ".png":
        raise AutocompressError(f"--figure {figure}: servers draw .png files: write a name that ends so")
    data = client.figure(study, "steps.png", trial)
    try:
        figure.write_bytes(data)
    except OSError as error:
        raise unwritten(error, figure) from error
    say(f"drawn: {figure}")


def _change(client: "Client", study: str, given: dict[str, Any]) -> None:
    from ..config import DURATIONS, quantity

    timeout = given.get("timeout")
    try:
        seconds = None if timeout is None else quantity(DURATIONS, "10m")(timeout)
    except ValueError as error:
        raise ServiceError(f"--timeout: {error}") from None
    values = {"trials": given.get("trials"), "workers": given.get("workers"), "timeout_s": seconds}
    wanted = {name: value for name, value in values.items() if value is not None}
    if wanted:
        client.change(study, wanted)


def _watch(client: "Client", study: str, after: int, as_json: bool) -> None:
    """Show what happens until nothing more does, and then the front; Ctrl-C ends the showing alone."""
    state, error = "", ""
    try:
        for event in client.events(study, after):
            line = event_line(event)
            if line:
                say(line)
            state = event.data["state"] if event.kind == "state" else state
            error = event.data.get("error", "") if event.kind == "state" else error
            if state == "paused" and client.get(study)["state"] == state:  # and was not resumed since
                break
    except KeyboardInterrupt:
        say(f"detached: {study} goes on at {client.url}; autocompress attach {study} shows it again")
        raise typer.Exit(INTERRUPTED) from None
    if state == "failed":
        raise ServiceError(error)
    if state in ("paused", "cancelled"):
        raise typer.Exit(INTERRUPTED)
    _show_front(client.front(study), as_json)


def event_line(event: "Happened") -> str:
    """An event as a line; empty for those that say nothing that a line before did not."""
    data = event.data
    match event.kind:
        case "state":
            return f"{data['state']}{': ' + data['error'] if data.get('error') else ''}"
        case "trial":
            reason = f": {data['reason']}" if data.get("reason") else ""
            return f"trial {data['trial']} {data['outcome']}: {data['recipe']}{reason}"
        case "front":
            from ..wording import size

            best = min((row["size_bytes"] for row in data["front"] if row.get("size_bytes")), default=None)
            smallest = "" if best is None else f", smallest {size(best)}"
            return f"front: {len(data['front'])} ({data['verdict']}{smallest})"
        case _:
            return ""


def _show_front(document: dict[str, Any], as_json: bool, as_csv: bool = False) -> None:
    from ..outcome import Limit

    if as_json:
        print_json(document)
    elif as_csv:
        write_lines(sys.stdout, front_csv(document))
    else:
        limits = [Limit(**row) for row in document["limits"]]
        print_parts(None, False, front_parts(document, limits, document["quality"]))
    raise typer.Exit(code_of(document["verdict"]))


def _list(client: "Client", given: dict[str, Any]) -> None:
    rows = list(client.searches())
    if given["as_json"]:
        print_json(rows)
        return
    if not rows:
        say(f"no searches of yours at {client.url}: start one with autocompress search CONFIG")
        return
    table = Table("study", "owner", "state", "verdict", "created", "error", box=None)
    for row in rows:
        cells = (row["study"], row["owner"], row["state"], row["verdict"], row["created"][:19], row["error"])
        table.add_row(*(cell or "" for cell in cells))
    output().print(table)


def _front(client: "Client", given: dict[str, Any]) -> None:
    _show_front(client.front(given["study"]), given["as_json"], given["as_csv"])


def _show(client: "Client", given: dict[str, Any]) -> None:
    document = client.trial(given["study"], given["trial"])
    from .details import trial_lines

    print_parts(document, given["as_json"], trial_lines(document, document["baseline"]))


def _export(client: "Client", given: dict[str, Any]) -> None:
    _refuse(
        given,
        pt2="export it where the task is",
        devices="export it where the task is",
        config="a search on a server has its own",
    )
    if given["trial"] is not None and given["pick"] is not None:
        raise AutocompressError("--trial and --pick both choose a trial: give one of them")
    from ..artifacts.directory import check_sums, check_target
    from ..search.files import write_folder
    from .details import delivery_parts

    out: Path = given["out"]
    check_target(out)
    say(f"exporting from {client.url}; one that was not made before takes a while")
    choice = {"trial": given["trial"], "pick": given["pick"] and given["pick"].value}
    with zipfile.ZipFile(io.BytesIO(client.export(given["study"], choice))) as archive:
        # By the last part of their names alone, so that nothing is written outside the folder.
        files = {Path(info.filename).name: archive.read(info) for info in archive.infolist() if not info.is_dir()}
    write_folder(out, files)
    check_sums(out)
    measurement = json.loads(files["measurement.json"])
    print_parts(measurement, given["as_json"], delivery_parts(measurement, out))


REMOTELY: dict[str, "Callable[[Client, dict[str, Any]], None]"] = {
    "search": _search,
    "plan": _plan,
    "explain": _explain,
    "list_studies": _list,
    "front": _front,
    "show": _show,
    "export": _export,
}


def attach(study: RemoteStudy, server: ServerOption = None, as_json: JsonOption = False) -> None:
    """Show a search on a server, from its beginning to its end; Ctrl-C detaches, and it goes on."""
    with _client(server) as client:
        _watch(client, study, 0, as_json)


def logs(
    study: RemoteStudy,
    run: RunOption = None,
    server: ServerOption = None,
) -> None:
    """Print what the controller of a search on a server wrote."""
    with _client(server) as client:
        write_lines(sys.stdout, client.logs(study, run))


def pause(study: RemoteStudy, server: ServerOption = None) -> None:
    """Pause a search on a server, once its running trials have ended."""
    _ask(server, study, "pause")


def resume(
    study: RemoteStudy,
    trials: TrialsOption = None,
    timeout: TimeoutOption = None,
    workers: WorkersOption = None,
    server: ServerOption = None,
) -> None:
    """Go on with a search on a server that was paused, has finished or has failed."""
    with _client(server) as client:
        _change(client, study, {"trials": trials, "timeout": timeout, "workers": workers})
        say(f"{study}: {client.ask(study, 'resume')['state']}")


def cancel(study: RemoteStudy, server: ServerOption = None) -> None:
    """End a search on a server for good; its trials stay."""
    _ask(server, study, "cancel")


def _ask(server: str | None, study: str, request: str) -> None:
    with _client(server) as client:
        say(f"{study}: {client.ask(study, request)['state']}")
