"""Recipes: ordered lists of compression steps, as values that can be written, compared and checked without a model."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from .documents import Document, Key, explain
from .errors import ConfigError, RecipeError
from .writing_out import AND, both, written_out

VERSION = 1
Kind = Literal["structure", "train", "encode"]


@dataclass(frozen=True)
class Range:
    """Where a search may look for a numeric setting; both ends included."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether it holds whole numbers alone."""
        return all(isinstance(part, int) for part in (self.low, self.high, 1 if self.step is None else self.step))


@dataclass(frozen=True)
class Choice:
    """The values that a search may give to a setting without an order."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        object.__setattr__(self, "values", values)


class Step(BaseModel):
    """One technique with its settings: frozen, validated, comparable.

    Techniques subclass it; their fields are the settings. A field annotated with Range or Choice says where
    a search looks for it unless the search space says otherwise; other fields keep their default there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    technique: ClassVar[str]
    family: ClassVar[str]
    kind: ClassVar[Kind]
    # What kinds of steps may stand before this one. An encoded model is a file: nothing can be cut or trained there.
    follows: ClassVar[frozenset[str]] = frozenset({"structure", "train"})
    # What kind of step a later one takes this for, where that is not its own kind: what the model is after it.
    leaves: ClassVar[Kind | None] = None
    # Whether it leaves another network than the one it is given, of which nothing is known yet.
    anew: ClassVar[bool] = False
    # How far outputs of the file may be from those of the module, relative to the largest: integers round otherwise.
    parity: ClassVar[float] = 1e-3
    # Whether a recipe may restrict it to some layers; it then asks `within` for those that it works on.
    by_layer: ClassVar[bool] = False

    # Shell patterns of the names of the layers that it is restricted to, or of modules around them; none for all.
    layers: tuple[str, ...] = ()

    @field_validator("layers")
    @classmethod
    def _can_be_restricted(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value and not cls.by_layer:
            raise ValueError(f"{cls.technique} works on the whole model: do not restrict it to layers")
        if not all(part.strip() for pattern in value for part in pattern.split(AND)):
            raise ValueError(f"{list(value)}: an empty pattern means no layer: write names such as conv1 or fc*")
        return value

    @classmethod
    def result(cls) -> Kind:
        """The kind that steps after this one must be able to follow."""
        return cls.leaves or cls.kind

    def to_data(self) -> dict[str, Any]:
        """The step as plain values, defaults included, so that a recipe outlives a change of defaults."""
        data = self.model_dump(mode="json")
        layers = data.pop("layers")
        return {"technique": self.technique, **data, **({"layers": layers} if layers else {})}

    def expand(self) -> list[dict[str, Any]]:
        """The plain steps, as plain values, that a trial carries out in the place of this one: itself, as a rule."""
        return [self.to_data()]

    def __str__(self) -> str:
        defaults = {"technique": self.technique, **type(self).model_construct().model_dump(mode="json")}
        changed = {k: v for k, v in self.to_data().items() if v != defaults.get(k)}
        if self.layers:
            changed["layers"] = _either(self.layers)
        settings = ", ".join(f"{key}={_short(value)}" for key, value in changed.items())
        return f"{self.technique}({settings})" if settings else self.technique


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a layer, or a module around it, has a name that one of the patterns means; ` & ` joins those of which
    all must."""
    parts = name.split(".")
    around = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return any(
        all(any(fnmatchcase(part, word.strip()) for part in around) for word in pattern.split(AND))
        for pattern in patterns
    )


def _either(patterns: Sequence[str]) -> str:
    return "|".join(patterns)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Recipe:
    """An ordered list of steps that can follow one another. Raises RecipeError when they cannot."""

    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        first: dict[Kind, int] = {}  # the first step of each kind, so that long recipes are checked as fast as read
        for index, step in enumerate(self.steps):
            before = min((at for kind, at in first.items() if kind not in step.follows), default=None)
            if before is not None:
                earlier = self.steps[before]
                raise RecipeError(
                    f"step {index + 1} {step.technique!r} follows step {before + 1} {earlier.technique!r}: "
                    f"{_ORDER_FIX[earlier.result(), step.result()]}"
                )
            first.setdefault(step.result(), index)

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that two recipes share exactly when they say the same."""
        return fingerprint(self.to_data())

    def prefix(self, length: int) -> "Recipe":
        """The recipe of the first `length` steps."""
        return Recipe(self.steps[:length])

    def to_data(self) -> dict[str, Any]:
        """The recipe as plain values, ready for JSON or YAML."""
        return {"version": VERSION, "steps": [step.to_data() for step in self.steps]}

    def to_yaml(self) -> str:
        """The recipe as a YAML document, one line a step."""
        rows = [f"  - {_flow(step.to_data())}" for step in self.steps]
        return f"version: {VERSION}\nsteps:{''.join(chr(10) + row for row in rows) or ' []'}\n"

    def __str__(self) -> str:
        return " > ".join(str(step) for step in self.steps) or "(no steps)"


_ORDER_FIX = {
    ("encode", "structure"): "prune and factorize before quantizing",
    ("encode", "train"): "train before quantizing",
    ("encode", "encode"): "a file has one encoding: keep one of the two",
}


def recipe_line(recipe: dict[str, Any]) -> str:
    """A recipe's plain values as one line with the settings that matter."""
    parts = []
    for step in recipe["steps"]:
        # Epochs of a step that could prune in cycles, but does not, are none.
        shown = [key for key in step if key in _SHOWN and not (key == "epochs" and step.get("cycles") == 1)]
        settings = [_setting(key, step[key]) for key in shown if not _is_usual(step, key)]
        settings += [f"layers {_either(step['layers'])}"] if "layers" in step else []
        parts.append(f"{step['technique']}({', '.join(settings)})" if settings else step["technique"])
    return " > ".join(parts) or "(no steps)"


_SHOWN = (
    *("network", "students", "width", "depth", "resolution", "fan_out"),
    *("ratio", "importance", "scope", "n", "m", "blocks", "cycles", "penalty", "strength"),
    *("rank", "energy", "variant", "terms", "epochs", "temperature", "alpha", "beta", "last"),
    *("bits", "block", "step", "rate", "calibration"),
)
_USUAL = {  # not worth a word
    "cycles": 1,
    "rank": "energy",
    "variant": "channel",
    "depth": 1,
    "resolution": 1,
    "alpha": 0,
    "last": 0,
    "rate": 0,
}


def _is_usual(step: Mapping[str, Any], key: str) -> bool:
    """Whether a setting is not worth a word; that a distillation has no share of the loss is."""
    return step[key] == _USUAL.get(key) and not (key == "alpha" and "distill" in step["technique"])


def _setting(key: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{key} {value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else f"{key} {value}"


def _flow(data: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(data), default_flow_style=True, sort_keys=False, width=10_000)
    return text.strip()


def fingerprint(recipe: dict[str, Any]) -> str:
    """Twelve hexadecimal digits for a recipe's plain values, defaults included."""
    return digest(recipe)[:12]


def digest(data: object) -> str:
    """The SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


Resolver = Callable[[str], type[Step]]


def parse_step(data: object, resolve: Resolver, document: Document, at: Key, layers: tuple[str, ...] = ()) -> Step:
    """Turn plain values into a step, restricted to layers. Raises ConfigError: file, key, value, rule and fix."""
    place = document.place(at)
    if isinstance(data, str):
        data = {"technique": data}
    if not isinstance(data, Mapping) or not isinstance(data.get("technique"), str):
        raise ConfigError(f"{place}: a step is a mapping such as {{technique: finetune, epochs: 3}}")
    try:
        kind = resolve(data["technique"])
    except RecipeError as error:
        raise ConfigError(f"{place}: {error}") from None
    settings = {key: value for key, value in data.items() if key != "technique"}
    try:
        step = kind.model_validate(settings)
        return kind.model_validate({**settings, "layers": both(layers, step.layers, document, at)}) if layers else step
    except ValidationError as error:
        raise ConfigError(explain(error, kind, document, at)) from None


def parse_recipe(document: Document, resolve: Resolver) -> Recipe:
    """Turn a recipe document into a Recipe; `resolve` gives the class of a technique by name."""
    data = document.data
    version = data.get("version")
    if isinstance(version, int) and not isinstance(version, bool) and version > VERSION:
        raise ConfigError(
            f"{document.place(('version',))}: {version} is newer than {VERSION}, the newest that this autocompress "
            "reads: upgrade autocompress"
        )
    if version != VERSION or isinstance(version, bool):
        raise ConfigError(f"{document.place(('version',))}: {version!r}: write `version: {VERSION}`")
    unknown = [key for key in data if key not in ("version", "steps")]
    if unknown:
        raise ConfigError(f"{document.place((unknown[0],))}: unknown key; a recipe has `version` and `steps`")
    rows = data.get("steps")
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise ConfigError(f"{document.place(('steps',))}: {rows!r}: write a list of steps")
    plain = written_out(rows, document, ("steps",))
    steps = tuple(parse_step(row, resolve, document, at, layers) for row, at, layers in plain)
    try:
        return Recipe(steps)
    except RecipeError as error:
        raise ConfigError(f"{document.place(('steps',))}: {error}") from None
