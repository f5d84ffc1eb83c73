"""Steps that take steps, written out to plain ones: `repeat` runs its steps again, `only` restricts one to layers.

They may stand in each other in any way: what each gives are plain steps again.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .documents import Document, Key
from .errors import ConfigError, suggest

MOST = 100  # plain steps that rows with a repeat among them may come to, and patterns that a step may have
AND = "&"  # between patterns that must all match: layers of an `only` in an `only`
REPEAT, ONLY = "repeat", "only"
Layers = tuple[str, ...]


def written_out(
    rows: Sequence[Any], document: Document, at: Key, layers: Layers = ()
) -> Iterator[tuple[Any, Key, Layers]]:
    """The plain steps that a list of rows stands for, each with its place and the layers that it is restricted to.

    Raises ConfigError for a repeat or restriction that says nothing, and for repeats that come to too many steps.
    """
    for count, found in enumerate(_list(rows, document, at, layers)):
        check_count(count + 1, document, found[1])
        yield found


def _list(rows: Sequence[Any], document: Document, at: Key, layers: Layers) -> Iterator[tuple[Any, Key, Layers]]:
    for index, row in enumerate(rows):
        yield from _row(row, document, (*at, index), layers)


def _row(row: Any, document: Document, at: Key, layers: Layers) -> Iterator[tuple[Any, Key, Layers]]:
    match wrapper(row):
        case "repeat":
            times, rows = parse_repeat(row, document, at)
            for _ in range(whole_times(times, document, (*at, REPEAT, "times"))):
                yield from _list(rows, document, (*at, REPEAT, "steps"), layers)
        case "only":
            patterns, step = parse_only(row, document, at)
            yield from _row(step, document, (*at, ONLY, "step"), both(layers, patterns, document, at))
        case _:
            yield row, at, layers


def wrapper(row: Any) -> str | None:
    """What takes the steps in a row: repeat or only; None for a plain row."""
    if not isinstance(row, Mapping) or "technique" in row:
        return None
    return next((word for word in (REPEAT, ONLY) if word in row), None)


def parse_repeat(row: Mapping[str, Any], document: Document, at: Key) -> tuple[Any, list[Any]]:
    """How often, as it is written, and which rows. Raises ConfigError."""
    inner = _inner(row, REPEAT, ("times", "steps"), document, at)
    rows = inner["steps"]
    if not isinstance(rows, list) or not rows:
        raise ConfigError(f"{document.place((*at, REPEAT, 'steps'))}: {rows!r}: write a list of the steps to repeat")
    return inner["times"], rows


def whole_times(value: Any, document: Document, at: Key) -> int:
    """A number of repetitions. Raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{document.place(at)}: {value!r}: write a whole number from 1 to {MOST}")
    return value


def parse_only(row: Mapping[str, Any], document: Document, at: Key) -> tuple[Layers, Any]:
    """The patterns of the layers, and the row that is restricted to them. Raises ConfigError."""
    inner = _inner(row, ONLY, ("layers", "step"), document, at)
    layers, step = inner["layers"], inner["step"]
    if not isinstance(layers, list) or not layers or not all(isinstance(name, str) and name.strip() for name in layers):
        raise ConfigError(
            f"{document.place((*at, ONLY, 'layers'))}: {layers!r}: write a list of names of layers, or of patterns, "
            "such as [conv1, 'fc*']"
        )
    if isinstance(step, list):
        raise ConfigError(
            f"{document.place((*at, ONLY, 'step'))}: {len(step)} steps where one is restricted: give each an `only` of "
            "its own, or put them into a repeat with times 1"
        )
    return tuple(layers), step


def _inner(row: Mapping[str, Any], word: str, keys: tuple[str, str], document: Document, at: Key) -> Mapping[str, Any]:
    inner = row[word]
    first, second = keys
    if len(row) > 1:
        other = next(key for key in row if key != word)
        raise ConfigError(f"{document.place((*at, other))}: unknown key beside {word!r}, which stands alone in a row")
    if not isinstance(inner, Mapping):
        raise ConfigError(f"{document.place((*at, word))}: {inner!r}: write {{{first}: ..., {second}: ...}}")
    for key in inner:
        if key not in keys:
            raise ConfigError(f"{document.place((*at, word, key))}: unknown key; {suggest(str(key), keys)}")
    for key in keys:
        if key not in inner:
            raise ConfigError(f"{document.place((*at, word, key))}: this key is required: add it")
    return inner


def both(outer: Layers, inner: Layers, document: Document, at: Key) -> Layers:
    """Patterns of the layers that two lists of patterns mean alike. Raises ConfigError for more than anyone reads."""
    if not outer or not inner:
        return outer or inner
    if len(outer) * len(inner) > MOST:
        raise ConfigError(
            f"{document.place(at)}: {len(inner)} patterns of layers within {len(outer)} others: more than {MOST} "
            "pairs: write fewer, or one list"
        )
    return tuple(dict.fromkeys(_joined(first, second) for first in outer for second in inner))


def _joined(first: str, second: str) -> str:
    words = [word.strip() for pattern in (first, second) for word in pattern.split(AND)]
    return f" {AND} ".join(dict.fromkeys(words))


def check_count(count: int, document: Document, at: Key) -> None:
    """Raise ConfigError where repeats come to more steps than a recipe may have."""
    if count > MOST and REPEAT in at:
        place = at[: at.index(REPEAT) + 1]
        raise ConfigError(f"{document.place(place)}: more than {MOST} steps when it is written out: lower times")
