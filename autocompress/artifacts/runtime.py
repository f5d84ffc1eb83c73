"""Running an exported file: one ONNX Runtime session, one thread unless the target says more."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from ..errors import ArtifactError
from ..reading import MODEL_BYTES, Unreadable, read_file

Array = NDArray[Any]
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
    """An exported file as a function of numpy arrays, in a fresh ONNX Runtime session.

    Call it with the model's inputs, batch first; it returns the output. A path is of a file that anybody may have
    made, bytes are of our own making. Raises ArtifactError for what is no model.
    """

    def __init__(self, source: bytes | Path, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # ONNX Runtime would else take a file for one of its own format by bytes that ONNX may hold too.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        # Spinning threads would keep the other core busy, which measures the machine and not the model.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        name = "the exported model" if isinstance(source, bytes) else str(source)
        data = source if isinstance(source, bytes) else read_model(source)
        try:
            self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ArtifactError(f"{name} cannot be loaded by ONNX Runtime: {str(error).splitlines()[0]}") from error
        self.inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]

    def __call__(self, *inputs: Array) -> Array:
        """The model's output for inputs in the order of the file."""
        return np.asarray(self._session.run(self._outputs, dict(zip(self.inputs, inputs, strict=True)))[0])

    def runner(self, inputs: tuple[Array, ...]) -> "Runner":
        """A call without arguments that runs these inputs: what latency is measured on."""
        return Runner(self._session, self._outputs, dict(zip(self.inputs, inputs, strict=True)))


class Runner:
    """One prepared call of a session."""

    def __init__(self, session: Any, outputs: list[str], feed: dict[str, Array]) -> None:
        self._run, self._outputs, self._feed = session.run, outputs, feed

    def __call__(self) -> None:
        self._run(self._outputs, self._feed)
