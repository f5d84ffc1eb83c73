"""Running an exported file: one session of the target's runtime, one thread unless it says more."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from ..config import ONE_THREAD, Target
from ..errors import ArtifactError
from ..reading import MODEL_BYTES, Unreadable, read_file
from .sessions import Array, Call, open_session

# The operators that ONNX Runtime's CPU provider has of its own; a file may bring others as functions.
DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"}


def read_model(path: Path) -> bytes:
    """The bytes of a model file that stands for itself. Raises ArtifactError where other files or code belong to it."""
    try:
        data = read_file(path, MODEL_BYTES)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file") from None
    except Unreadable as error:
        raise ArtifactError(str(error)) from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be loaded: {error.strerror}") from None
    try:
        model = onnx.load_from_string(data)
    except Exception:
        raise ArtifactError(f"{path} cannot be loaded by ONNX Runtime: it is no ONNX file") from None
    own = {(function.domain, function.name) for function in model.functions}
    for part in _parts(model):
        if isinstance(part, onnx.NodeProto):
            if part.domain not in DOMAINS and (part.domain, part.op_type) not in own:
                raise ArtifactError(
                    f"{path}: operator {part.domain!r}.{part.op_type!r} is neither ONNX's nor ONNX Runtime's: "
                    "an artifact needs no other library; export it with operators of theirs"
                )
        elif part.data_location == onnx.TensorProto.EXTERNAL or part.external_data:
            raise ArtifactError(
                f"{path}: tensor {part.name!r} is kept in another file: an artifact is one file; export it as one"
            )
    return data


def _parts(message: Any) -> Iterator[Any]:
    """Every node and tensor of a model, however deep: of subgraphs, functions, attributes and training alike."""
    if isinstance(message, onnx.TensorProto):
        yield message  # and no look at its numbers, which would be copied
        return
    if isinstance(message, onnx.NodeProto):
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in (value,) if hasattr(value, "ListFields") else value:  # one message, or a list of them
                yield from _parts(inner)


class Model:
    """An exported file as a function of numpy arrays, in a fresh session of a target's runtime.

    Call it with the model's inputs, batch first; it returns the output. A path is of a file that anybody may have
    made, bytes are of our own making. Raises ArtifactError for what is no model, or cannot be loaded on this target.
    """

    def __init__(self, source: bytes | Path, target: Target = ONE_THREAD) -> None:
        name = "the exported model" if isinstance(source, bytes) else str(source)
        data = source if isinstance(source, bytes) else read_model(source)
        self._session = open_session(data, target, name)
        self.inputs = list(self._session.inputs)

    def __call__(self, *inputs: Array) -> Array:
        """The model's output for inputs in the order of the file."""
        return self._session.run(inputs)

    def runner(self, inputs: tuple[Array, ...]) -> Call:
        """A call without arguments that runs these inputs: what latency is measured on."""
        return self._session.runner(inputs)
