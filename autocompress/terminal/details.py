"""Longer answers of the command line: one trial, the techniques, and the state of this machine."""

import os
import platform
import shlex
import socket
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from ..errors import AutocompressError, StudyError
from ..search.reasons import transfer_lines
from ..urls import is_server, shown, sqlite_file, under
from ..wording import decision_lines, metric_lines, number, second_lines, short, size

PACKAGES = (
    *("torch", "torchvision", "ray", "optuna", "mlflow", "onnx", "onnxruntime", "torch-pruning", "tensorly"),
    "safetensors",
)
EXTRAS = {
    "mlxtend": "examples",
    "timm": "timm",
    "transformers": "text",
    "gymnasium": "control",
    "captum": "attribution",
    "openvino": "openvino",
}


def trial_lines(document: dict[str, Any], baseline: dict[str, float]) -> list[str]:
    """A trial in full, line by line."""
    lines = [f"trial {document['trial']} of {document['study']}: {document['outcome']}"]
    if document["reason"]:
        lines.append(f"  {document['reason']}")
    lines += [f"  warning: it {text}" for text in document.get("remarks", ())]
    if document.get("doing") and document["doing"] not in document["reason"]:
        lines.append(f"  while doing this: {document['doing']}")
    lines += [f"  | {row}" for row in document.get("details", "").splitlines()]
    for index, step in enumerate(document["carried_out"]):
        settings = ", ".join(f"{key} {short(value)}" for key, value in step.items() if key != "technique")
        lines.append(f"step {index + 1}: {step['technique']}" + (f" ({settings})" if settings else ""))
        if index < len(document["decisions"]):
            lines += [f"    {row}" for row in decision_lines(document["decisions"][index])]
    if not document["decisions"]:
        lines.append("  (what was done to each layer is kept for the trials of the front)")
    for rung, metrics in document.get("rungs", {}).items():
        lines.append(f"after {rung}: " + ", ".join(f"{name} {number(name, value)}" for name, value in metrics.items()))
    if document["metrics"]:
        lines.append("measured on the exported file:")
        lines += [f"  {row}" for row in metric_lines(document["metrics"], baseline)]
    if document["violations"]:
        held = ", ".join(
            f"{k} {'past by' if v > 0 else 'within by'} {abs(v):.1%}" for k, v in document["violations"].items()
        )
        lines.append(f"limits: {held}")
    return [*lines, *transfer_lines(document), *second_lines(document["seconds"])]


def untold_lines(document: dict[str, Any]) -> list[str]:
    """What could be measured of a trial that trained, and is not yet known."""
    trained = any("epochs" in step for step in document["carried_out"])
    if not trained or document["outcome"] != "completed" or document["from_scratch"]:
        return []
    how = f"autocompress explain {shlex.quote(document['study'])} {document['trial']}"
    return [f"not yet held against the same network trained from scratch: {how}"]


def comparison_table(document: dict[str, Any]) -> Table:
    """Claimed beside measured."""
    table = Table("metric", "claimed", "measured", box=box.SIMPLE_HEAD)
    for name, value in document["measured"].items():
        claimed = document["claimed"].get(name)
        table.add_row(name, "" if claimed is None else number(name, claimed), number(name, value))
    return table


def verify_parts(document: dict[str, Any]) -> Iterator[Any]:
    """What verifying an artifact directory found."""
    yield comparison_table(document)
    reasons: dict[str, list[str]] = {}
    for name, reason in document["not_checked"].items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        yield f"not checked: {', '.join(names)} ({reason})"
    wrong = document["wrong"]
    yield "holds" if not wrong else "does not hold: " + "; ".join(wrong)


def delivery_parts(measurement: dict[str, Any], out: Path) -> Iterator[Any]:
    """What was written to an artifact directory."""
    yield measurement_table(measurement)
    if "pt2_bytes" in measurement:
        yield f"model.pt2: {size(measurement['pt2_bytes'])}, the model in float"
    if "devices" in measurement:
        yield f"a device each: {', '.join(f'{name} {size(many)}' for name, many in measurement['devices'].items())}"
    for text in measurement.get("remarks", ()):
        yield f"warning: it {text}"
    yield f"written and verified: {out}"


def measurement_table(measurement: dict[str, Any]) -> Table:
    """The baseline beside the artifact."""
    table = Table("metric", "uncompressed", "this file", box=box.SIMPLE_HEAD)
    for name, value in measurement["measured"].items():
        before = measurement["baseline"].get(name)
        table.add_row(name, "" if before is None else number(name, before), number(name, value))
    return table


def technique_documents() -> list[dict[str, Any]]:
    """Every registered technique as plain values."""
    from ..techniques import registry

    documents = []
    for name, kind in registry().items():
        schema = kind.model_json_schema()["properties"] if kind.model_fields else {}
        defaults = kind().model_dump(mode="json")
        settings = {
            key: {
                "default": defaults[key],
                **{k: v for k, v in schema[key].items() if k not in ("title", "default")},
                "search": next((str(m) for m in field.metadata if type(m).__name__ in ("Range", "Choice")), None),
            }
            for key, field in kind.model_fields.items()
            if key != "layers"
        }
        documents.append(
            {
                "technique": name,
                "family": kind.family,
                "kind": kind.kind,
                "about": (kind.__doc__ or "").strip().splitlines()[0],
                "needs": kind.needs,
                "by_layer": kind.by_layer,
                "may_follow": sorted(other for other, before in registry().items() if before.result() in kind.follows),
                "settings": settings,
            }
        )
    return documents


def technique_lines(documents: list[dict[str, Any]]) -> list[str]:
    """The same to read."""
    lines = []
    for document in documents:
        lines += [f"{document['technique']}  ({document['family']}, {document['kind']})", f"  {document['about']}"]
        if document["needs"]:
            lines.append(f"  needs {document['needs']}")
        for key, setting in document["settings"].items():
            search = f", searched in {setting['search']}" if setting["search"] else ""
            lines.append(f"    {key} = {setting['default']}{search}")
        if document["by_layer"]:
            lines.append("    only: {layers: [...], step: ...} restricts it to some layers")
        lines += [f"  may follow: {', '.join(document['may_follow'])}", ""]
    return [*lines, "repeat: {times: N, steps: [...]} runs steps again; repeat and only may stand in each other"]


def tracking_place(storage: str) -> tuple[str, str]:
    """The tracking store of a storage's newest study, and that study's address in it; raises StudyError for none."""
    from ..search.storage import study_names
    from ..search.store import StudyStore

    stores = [StudyStore.open(storage, name) for name in study_names(storage)]
    tracked = [store for store in stores if (store.get("config") or {}).get("tracking")]
    if not tracked:
        raise StudyError(f"no tracked study in {shown(storage)}: run a search first, or give --uri")
    newest = max(tracked, key=lambda store: max((r.ended_ms for r in store.records().values()), default=0))
    uri, page = str(newest.get("config")["tracking"]["uri"]), str(newest.get("mlflow_page", ""))
    path = None if is_server(uri) else sqlite_file(uri)
    if path is None:
        return uri, page
    beside = newest.folder.parent
    return under(uri, beside if (beside / path).is_file() else Path.cwd()), page


def diagnose(storage: str) -> list[dict[str, Any]]:
    """What a search needs of this machine, each with whether it is there and how to get it."""
    from ..artifacts.directory import processor

    found = processor()
    rows = [
        _row("python", True, platform.python_version(), ""),
        _row("processor", True, f"{found['name']}, {os.cpu_count()} cores", ""),
        _row("8-bit instructions", True, "yes" if found["vnni"] else "none: int8 may be no faster here", ""),
        _row("memory", True, _memory(), ""),
    ]
    for name in PACKAGES:
        installed = _version(name)
        rows.append(
            _row(name, installed is not None, installed or "missing", "" if installed else f"pip install {name}")
        )
    for name, extra in EXTRAS.items():
        installed = _version(name)
        rows.append(_row(name, True, installed or f"not installed; pip install 'autocompress[{extra}]'", ""))
    rows += [_storage_row(storage), _port_row(5000), _registry_row()]
    return rows


def _row(what: str, ok: bool, found: str, fix: str) -> dict[str, Any]:
    return {"what": what, "ok": ok, "found": found, "fix": fix}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _memory() -> str:
    try:
        return size(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError):
        return "unknown"


def _storage_row(storage: str) -> dict[str, Any]:
    from ..search.storage import study_names

    try:
        return _row("storage", True, f"{shown(storage)}: {len(study_names(storage))} studies", "")
    except AutocompressError as error:
        return _row("storage", False, str(error), "check the URL, or set AUTOCOMPRESS_STORAGE")


def _port_row(port: int) -> dict[str, Any]:
    with socket.socket() as probe:
        free = probe.connect_ex(("127.0.0.1", port)) != 0
    return _row(f"port {port}", True, "free" if free else "in use: autocompress ui --port N", "")


def _registry_row() -> dict[str, Any]:
    from ..techniques import registry

    try:
        return _row("techniques", True, ", ".join(registry()), "")
    except AutocompressError as error:
        return _row("techniques", False, str(error), "repair or uninstall that package")
