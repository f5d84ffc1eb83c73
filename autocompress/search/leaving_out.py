"""Techniques of a search space that cannot be applied to the model: found once, and left out of the space."""

from typing import Any

from pydantic import ValidationError

from ..errors import ExecutorError
from ..executors import Executor
from ..outcome import Baseline
from ..recipe import Choice, digest
from ..techniques.sources import code_of, package_code
from ..trial.applicable import find_obstacles
from .groups import Domain, Option
from .setup import Setup
from .state import View

Found = dict[str, str]  # why techniques cannot be applied, by name


def obtain_obstacles(setup: Setup, baseline: Baseline, executor: Executor, view: View) -> Found:
    """Why techniques of the space cannot be applied to the uncompressed model, by name, whatever their settings are.

    What is known of this model, these settings and this code of the techniques is not tried again.
    """
    options = [option for group in setup.space.groups for option in group.options if option is not None]
    tried = {option.name: tries(option) for option in options}
    key = digest([setup.baseline_key, tried, [code_of(option.kind) for option in options], package_code()])[:32]
    kept = setup.files.load_obstacles(key)
    if kept is not None:
        return kept
    first = {digest(rows): name for name, rows in reversed(tried.items())}  # of options that are tried alike
    families: dict[str, list[str]] = {}
    for option in options:
        if option.name in first.values():
            families.setdefault(option.kind.family, []).append(option.name)
    met: dict[str, str] = {}
    known = True
    for number, (family, names) in enumerate(families.items(), 1):
        view.phase(
            f"trying each technique of the search space on the model: {family} ({number} of {len(families)} families)"
        )
        try:
            met |= _tried(setup, baseline, executor, {name: tried[name] for name in names})
        except ExecutorError as error:  # a library that takes its process with it
            view.note(f"warning: it is not known which techniques of {family} can be applied to this model: {error}")
            known = False
    found = {name: met[first[digest(rows)]] for name, rows in tried.items() if first[digest(rows)] in met}
    if known:
        setup.files.store_obstacles(key, found)
    return found


def _tried(setup: Setup, baseline: Baseline, executor: Executor, steps: dict[str, list[dict[str, Any]]]) -> Found:
    config = setup.config
    return executor.call(find_obstacles, setup.reference, baseline, config.search.seed, config.target, steps)


def note_of(name: str, reason: str) -> str:
    """A line that says why a technique is left out."""
    return f"left out of the search space: {name}: {reason.removeprefix(name).lstrip(': ')}"


def tries(option: Option) -> list[dict[str, Any]]:
    """Steps to try a technique with, as plain values: its defaults, each setting at its ends, all low, all high."""
    usual = {key: _usual(option, key, domain) for key, domain in option.searched.items()}
    ends = {key: _ends(domain) for key, domain in option.searched.items()}
    rows = [usual, *({**usual, key: value} for key, values in ends.items() for value in values)]
    rows += [{key: values[at] for key, values in ends.items()} for at in (0, -1)]
    found: list[dict[str, Any]] = []
    for row in rows:
        try:
            data = option.kind.model_validate({**option.fixed, **row}).to_data()
        except ValidationError:
            continue
        if data not in found:
            found.append(data)
    return found


def _usual(option: Option, key: str, domain: Domain) -> Any:
    """The technique's own default where a search may take it, else the first value that it may."""
    default, ends = option.kind.model_fields[key].default, _ends(domain)
    if isinstance(domain, Choice):
        return default if default in ends else ends[0]
    number = isinstance(default, int | float) and not isinstance(default, bool)
    return default if number and domain.low <= default <= domain.high else ends[0]


def _ends(domain: Domain) -> tuple[Any, ...]:
    if isinstance(domain, Choice):
        return domain.values
    return (int(domain.low), int(domain.high)) if domain.whole else (domain.low, domain.high)
