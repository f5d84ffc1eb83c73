"""What ONNX Runtime's quantizers log and raise, which is about their own code."""

import contextlib
import logging
from collections.abc import Iterator

from ...errors import AutocompressError, TechniqueError


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Keep onnxruntime from logging that it leaves tensors alone that are no weights."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def told(doing: str) -> Iterator[None]:
    """Raise TechniqueError, saying what was being done, for an error that is not our own."""
    try:
        yield
    except AutocompressError:
        raise
    except Exception as error:
        raise TechniqueError(
            f"{doing} fails in ONNX Runtime: keep the layer that it names in float (keep: [...]), or leave the step "
            f"out: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        ) from error
