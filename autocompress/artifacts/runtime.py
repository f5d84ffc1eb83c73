"""Running an exported file: one ONNX Runtime session, one thread unless the target says more."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ..errors import ArtifactError

Array = NDArray[Any]


class Model:
    """An exported file as a function of numpy arrays, in a fresh ONNX Runtime session.

    Call it with the model's inputs, batch first; it returns the output. Raises ArtifactError for what is no model.
    """

    def __init__(self, source: bytes | Path, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning threads would keep the other core busy, which measures the machine and not the model.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        name = "the exported model" if isinstance(source, bytes) else str(source)
        try:
            data = source if isinstance(source, bytes) else source.read_bytes()
            self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except FileNotFoundError:
            raise ArtifactError(f"{name}: no such file") from None
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
