"""One file a device, of a network of networks: each student's, and one that joins what they send."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx.shape_inference import infer_shapes
from onnx.utils import Extractor

from ..errors import ArtifactError
from .export import strip
from .runtime import Model

TOLERANCE = 0.05  # of the largest output: integers may be rounded elsewhere where the runtime fuses over a cut


def files_of_devices(model: onnx.ModelProto) -> list[onnx.ModelProto]:
    """A file for each student of a `nonn` step, which gives its features, and last the one that joins them.

    The last takes the features of all students in their order; features_0 and so on, as the students' files call them.
    Raises ArtifactError for a file whose last concatenation is not of parts that take its input each.
    """
    named = onnx.ModelProto()
    named.CopyFrom(model)
    graph = named.graph
    joins = [node for node in graph.node if node.op_type == "Concat"]
    if not joins or len(graph.input) != 1:
        raise ArtifactError("this file joins no students: it is not one of a recipe with `nonn`, leave out --devices")
    features = _renamed(graph, list(joins[-1].input))
    try:
        whole = Extractor(infer_shapes(named))
        students = [whole.extract_model([graph.input[0].name], [name]) for name in features]
        last = whole.extract_model(features, [output.name for output in graph.output])
    except (KeyError, ValueError, onnx.checker.ValidationError) as error:
        raise ArtifactError(f"this file cannot be divided at {joins[-1].output[0]}, its last concatenation") from error
    return [strip(part) for part in (*students, last)]


def _renamed(graph: onnx.GraphProto, features: list[str]) -> list[str]:
    """Call what the students give features_0 and so on, by which whoever runs their files knows it."""
    names = {name: f"features_{index}" for index, name in enumerate(features)}
    for node in graph.node:
        for held in (node.input, node.output):
            held[:] = [names.get(name, name) for name in held]
    for value in graph.value_info:
        value.name = names.get(value.name, value.name)
    return [names[name] for name in features]


def named_files(data: bytes, inputs: Sequence[np.ndarray]) -> dict[str, bytes]:
    """The files of a file's devices by name, student_0.onnx and so on and last join.onnx, after a run of them together.

    inputs: an example. Raises ArtifactError for a file without students, and where they do not compute what it does.
    """
    *students, last = (part.SerializeToString() for part in files_of_devices(onnx.load_from_string(data)))
    whole, features = Model(data)(*inputs), [Model(student)(*inputs) for student in students]
    off = np.abs(Model(last)(*features) - whole).max()
    if not off <= TOLERANCE * np.abs(whole).max():
        raise ArtifactError(f"the files of single devices differ from the whole by {off:.3g}: leave out --devices")
    return {**{f"student_{index}.onnx": student for index, student in enumerate(students)}, "join.onnx": last}
