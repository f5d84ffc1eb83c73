"""The exceptions that autocompress raises for its users.

    AutocompressError
    ├── ConfigError        a file, key or value that a user wrote cannot be used
    ├── RecipeError        steps that cannot follow one another, or that nobody knows
    ├── TaskError          the user's model or data do not fit together
    ├── TechniqueError     a technique cannot do what a recipe asks on this model
    ├── ArtifactError      an exported file is missing, damaged or computes something else
    ├── StudyError         no such study or trial, or a study that belongs to another config
    └── ExecutorError      no workers could be had

Every message names the value, the rule and the fix.
"""

import difflib
from collections.abc import Iterable


class AutocompressError(Exception):
    """Something the user can act on; the command line prints it as one line."""


class ConfigError(AutocompressError):
    """A file, key or value that a user wrote cannot be used."""


class RecipeError(AutocompressError):
    """A recipe that cannot be: unknown techniques, impossible settings or an impossible order."""


class TaskError(AutocompressError):
    """The user's model, data, loss and metrics do not fit together."""


class TechniqueError(AutocompressError):
    """A technique cannot do what the recipe asks on this model."""


class ArtifactError(AutocompressError):
    """An exported file is missing, damaged, or computes something else than its model."""


class StudyError(AutocompressError):
    """A study or trial does not exist, is in use, or belongs to another config."""


class ExecutorError(AutocompressError):
    """No workers could be started or reached."""


def suggest(word: str, known: Iterable[str]) -> str:
    """The clause that helps with a misspelt word: the nearest known one, or all of them."""
    options = sorted(known)
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(options)}"
