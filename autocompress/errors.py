"""The exceptions that autocompress raises for its users.

    AutocompressError
    ├── ConfigError        a file, key or value that a user wrote cannot be used
    ├── RecipeError        steps that cannot follow one another, or that nobody knows
    ├── TaskError          the user's model or data do not fit together
    ├── TechniqueError     a technique cannot do what a recipe asks on this model
    │   └── NothingToDo    it finds nothing that its settings would change
    ├── ArtifactError      an exported file is missing, damaged or computes something else
    ├── StudyError         no such study or trial, or a study that belongs to another config
    │   └── StorageAway    the storage's database does not answer, or is held by others
    ├── WriteError         a folder or database takes no more: no room, or no permission
    ├── ExecutorError      no workers could be had
    │   └── ClusterAway    the cluster that was named does not answer, or was lost
    └── ServiceError       the service cannot do what it was asked for, or cannot be reached

Every message names the value, the rule and the fix.
"""

import difflib
import errno
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


class NothingToDo(TechniqueError):
    """A technique finds nothing in this model that its settings would change; a recipe goes on without the step."""


class ArtifactError(AutocompressError):
    """An exported file is missing, damaged, or computes something else than its model."""


class StudyError(AutocompressError):
    """A study or trial does not exist, is in use, or belongs to another config."""


class StorageAway(StudyError):
    """A storage's database does not answer, or is held by another process; a search can be resumed once it is back."""


class WriteError(AutocompressError):
    """A folder or database that has no room left, or must not be written to."""


class ExecutorError(AutocompressError):
    """No workers could be started or reached."""


class ClusterAway(ExecutorError):
    """A cluster that was named does not answer, or was lost; the same search goes on once it is back."""


class ServiceError(AutocompressError):
    """The service cannot do what it was asked for, or cannot be reached."""


RESUMES = "a search goes on from there with --resume"
NO_ROOM = f"make room, and {RESUMES}"
NO_PERMISSION = f"give write permission or work in another folder, and {RESUMES}"
FIXES = {
    errno.ENOSPC: NO_ROOM,
    errno.EDQUOT: f"make room within the quota, and {RESUMES}",
    errno.EFBIG: f"raise the limit on the size of files (ulimit -f), and {RESUMES}",
    errno.EROFS: NO_PERMISSION,
    errno.EACCES: NO_PERMISSION,
    errno.EPERM: NO_PERMISSION,
    errno.ENOTDIR: "move away the file that stands in the place of a folder",
    errno.EEXIST: "move away the file that stands in the place of a folder",
    errno.EISDIR: "move away the folder that stands in the place of a file",
}


NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def unwritten(error: OSError, path: object = None) -> WriteError:
    """What a system's refusal to write means, in words; path is what was to be written, if the error does not say."""
    place, rule = path or error.filename or "a file", (error.strerror or str(error)).lower()
    fix = FIXES.get(error.errno or 0, "check the disk and its permissions")
    return WriteError(f"{place}: cannot be written: {rule}: {fix}")


def suggest(word: str, known: Iterable[str]) -> str:
    """The clause that helps with a misspelt word: the nearest known one, or all of them."""
    options = sorted(known)
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(options)}"
