"""What runs a model file: one class a runtime, each with the target's threads and nothing more than the file says."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from ..config import Target
from ..errors import ArtifactError

Array = NDArray[Any]
Call = Callable[[], None]


class Session(Protocol):
    """A loaded file: the names of its inputs, and calls in their order. name is the runtime's, for people."""

    name: ClassVar[str]
    inputs: Sequence[str]

    def run(self, inputs: Sequence[Array]) -> Array:
        """The file's output for arrays, batch first."""

    def runner(self, inputs: Sequence[Array]) -> Call:
        """A call that runs these inputs, which lie where the runtime computes: what latency is measured on."""


class OnCPU:
    """ONNX Runtime on the processor."""

    name: ClassVar[str] = "ONNX Runtime"
    provider = "CPUExecutionProvider"

    def __init__(self, data: bytes, threads: int) -> None:
        if self.provider not in ort.get_available_providers():
            raise ArtifactError(
                f"onnxruntime has no {self.provider} here, only {', '.join(ort.get_available_providers())}: install "
                "onnxruntime-gpu where files are measured, or name another target.runtime"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # ONNX Runtime would else take a file for one of its own format by bytes that ONNX may hold too.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        # Spinning threads would keep the other core busy, which measures the machine and not the model.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(data, options, providers=[self.provider])
        if self._session.get_providers()[0] != self.provider:
            raise ArtifactError(f"ONNX Runtime cannot use its {self.provider} here: are its libraries installed?")
        self.inputs: Sequence[str] = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]

    def run(self, inputs: Sequence[Array]) -> Array:
        """The file's output for arrays, batch first."""
        return np.asarray(self._session.run(self._outputs, dict(zip(self.inputs, inputs, strict=True)))[0])

    def runner(self, inputs: Sequence[Array]) -> Call:
        """A call that runs these inputs."""
        run, outputs, feed = self._session.run, self._outputs, dict(zip(self.inputs, inputs, strict=True))

        def call() -> None:
            run(outputs, feed)

        return call


class OnCUDA(OnCPU):
    """ONNX Runtime on the first CUDA device."""

    name: ClassVar[str] = "ONNX Runtime on CUDA"
    provider = "CUDAExecutionProvider"

    def runner(self, inputs: Sequence[Array]) -> Call:
        """A call that runs inputs which lie on the device, leaves outputs there, and waits for it."""
        binding = self._session.io_binding()
        for name, array in zip(self.inputs, inputs, strict=True):
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
        for name in self._outputs:
            binding.bind_output(name, "cuda", 0)

        def call() -> None:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return call


class OnOpenVINO:
    """OpenVINO on the processor, in the precision that the file says, where it would take bfloat16 if it can."""

    name: ClassVar[str] = "OpenVINO"

    def __init__(self, data: bytes, threads: int) -> None:
        try:
            import openvino
        except ImportError:
            raise ArtifactError("OpenVINO is not installed here: pip install 'autocompress[openvino]'") from None
        from onnx.inliner import inline_local_functions

        # It knows no functions in a file, such as those that decode packed weights.
        model = inline_local_functions(onnx.load_from_string(data))
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        core = openvino.Core()
        self._request = core.compile_model(
            core.read_model(model.SerializeToString()), "CPU", settings
        ).create_infer_request()
        self.inputs: Sequence[str] = [value.name for value in model.graph.input]

    def run(self, inputs: Sequence[Array]) -> Array:
        """The file's output for arrays, batch first."""
        found = self._request.infer(dict(zip(self.inputs, inputs, strict=True)))
        return np.array(found[0])

    def runner(self, inputs: Sequence[Array]) -> Call:
        """A call that runs these inputs."""
        infer, feed = self._request.infer, dict(zip(self.inputs, inputs, strict=True))

        def call() -> None:
            infer(feed, share_inputs=True, share_outputs=True)

        return call


RUNTIMES: Mapping[str, type[OnCPU | OnOpenVINO]] = {
    "onnxruntime-cpu": OnCPU,
    "onnxruntime-cuda": OnCUDA,
    "openvino": OnOpenVINO,
}


def open_session(data: bytes, target: Target, what: str) -> Session:
    """A session of a file on a target. Raises ArtifactError where what is to be opened cannot be."""
    runtime = RUNTIMES[target.runtime]
    try:
        return runtime(data, target.threads)
    except ArtifactError:
        raise
    except Exception as error:
        raise ArtifactError(f"{what} cannot be loaded by {runtime.name}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What an error says of the file; OpenVINO begins with places in its own code."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(("Exception from ", "Check '")))[:300]
