"""Where trials run: on Ray workers, or in this process. Only this package knows Ray."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ..config import RayAddress, Target
from ..errors import ConfigError, suggest
from ..tasks.objects import HeldTask
from .base import Executor, Finished, Note
from .inline import InlineExecutor
from .ray import RayExecutor
from .shipping import SHIPPED_BYTES, SHIPPED_FILES, stage_code

KINDS = ("ray", "inline")

__all__ = [
    "SHIPPED_BYTES",
    "SHIPPED_FILES",
    "Executor",
    "Finished",
    "InlineExecutor",
    "RayExecutor",
    "opened",
    "stage_code",
]


@contextlib.contextmanager
def opened(
    kind: str,
    ray: RayAddress,
    workers: int,
    code: Path | None,
    target: Target,
    note: Note,
    gpus: float = 0.0,
    held: HeldTask | None = None,
) -> Iterator[Executor]:
    """Workers on Ray, or none (the same functions in this process), for a while. Raises ConfigError or ExecutorError.

    kind: ray or inline; ray: which cluster, and the image that its workers run in; the rest as RayExecutor takes it.
    """
    if kind not in KINDS:
        raise ConfigError(f"--executor {kind}: {suggest(kind, KINDS)}")
    executor: Executor = InlineExecutor()
    if kind == "ray":
        executor = RayExecutor(ray.address, workers, code, target, note, ray.image, gpus, held)
    try:
        yield executor
    finally:
        executor.close()
