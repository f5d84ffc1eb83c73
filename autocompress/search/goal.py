"""The goal of a search, such as `size <= 20 KB and accuracy_drop <= 0.01`, in the words and units of the budget."""

import math
import re
from dataclasses import dataclass, replace

from ..config import DROP, MEASURED, Budget, Names
from ..documents import Document, validate
from ..errors import ConfigError, suggest
from ..outcome import Limit, Metrics

EXAMPLE = "size <= 20 KB and accuracy_drop <= 0.01"
TERM = re.compile(r"\s*([A-Za-z_][\w.-]*)\s*(<=|>=|<|>)\s*([^<>=\s][^<>=]*?)\s*")


@dataclass(frozen=True)
class Term:
    """One bound as it is written: a word, a sign and a quantity."""

    text: str
    word: str
    sign: str
    value: str

    @property
    def strict(self) -> bool:
        """Whether the bound itself is not enough."""
        return self.sign in ("<", ">")


def read_goal(text: str) -> tuple[Term, ...]:
    """The terms of a goal. Raises ConfigError for what is no list of bounds joined by `and`."""
    parts = re.split(r"\band\b", " ".join(text.split()), flags=re.IGNORECASE)
    matches = [(part.strip(), TERM.fullmatch(part)) for part in parts]
    for part, match in matches:
        if match is None:
            what = repr(part) if part else "an empty goal" if len(parts) == 1 else "an empty term"
            raise ConfigError(f"{what}: write METRIC <= NUMBER or METRIC >= NUMBER, joined by `and`: {EXAMPLE}")
    terms = tuple(Term(part, *match.groups()) for part, match in matches if match)
    words = [term.word for term in terms]
    for term in terms:
        if words.count(term.word) > 1:
            raise ConfigError(f"{term.text!r}: {term.word} is bounded twice: keep one")
    return terms


def goal_limits(text: str | None, baseline: Metrics, lower: Names = ()) -> tuple[Limit, ...]:
    """The terms as bounds on metrics, drops counted from the baseline; none where there is no goal.

    lower: the task's own metrics of which less is better. Raises ConfigError for unknown metrics and units, and for
    bounds from the side that is worse.
    """
    return () if text is None else tuple(_limit(term, baseline, lower) for term in read_goal(text))


def _limit(term: Term, baseline: Metrics, lower: Names) -> Limit:
    words = Budget.model_fields.keys() - {"metrics"}
    if term.word not in words and term.word not in baseline:
        raise ConfigError(f"{term.text!r}: {term.word!r} is not measured; {suggest(term.word, {*words, *baseline})}")
    own = term.word not in words
    data = {term.word: term.value} if not own else {"metrics": {term.word: _number(term)}}
    try:
        budget = validate(Budget, Document(repr(term.text), data))
        (limit,) = budget.limits(baseline, lower)
    except ConfigError as error:
        raise ConfigError(str(error).replace("budget.", "")) from None
    _check_direction(term, limit.sense, own and term.word not in MEASURED)
    if not term.strict:
        return limit
    return replace(limit, bound=math.nextafter(limit.bound, -math.inf if limit.sense == "at_most" else math.inf))


def _number(term: Term) -> float:
    try:
        number = float(term.value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{term.text!r}: {term.value!r} is no number, and {term.word} has no unit: write one")
    return number


def _check_direction(term: Term, sense: str, own: bool) -> None:
    less = (sense == "at_most") != term.word.endswith(DROP)
    if less == (term.sign[0] == "<"):
        return
    sign = ("<" if less else ">") + term.sign[1:]
    fix = f"write {term.word} {sign} {term.value}"
    fix += ", or name it in the task's `lower_is_better`" if own and not less else ""
    raise ConfigError(f"{term.text!r}: {'less' if less else 'more'} of {term.word} is better: {fix}")


def met(goal: tuple[Limit, ...], metrics: Metrics) -> bool:
    """Whether metrics meet every term of a goal; nothing meets none."""
    return bool(goal) and all(limit.violation(metrics) <= 0 for limit in goal)
