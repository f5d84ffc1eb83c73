"""One file a device, of a network of networks: each student's, and one that joins what they send."""

import onnx
from onnx.shape_inference import infer_shapes
from onnx.utils import Extractor

from ..errors import ArtifactError
from .export import strip


def files_of_devices(model: onnx.ModelProto) -> list[onnx.ModelProto]:
    """A file for each student of a `nonn` step, which gives its features, and last the one that joins them.

    The last takes the features of all students in their order, by the names that the students' files give them. Raises
    ArtifactError for a file whose last concatenation is not of parts that take its input each.
    """
    graph = model.graph
    joins = [node for node in graph.node if node.op_type == "Concat"]
    if not joins or len(graph.input) != 1:
        raise ArtifactError("this file joins no students: it is not one of a recipe with `nonn`")
    features, whole = list(joins[-1].input), Extractor(infer_shapes(model))
    try:
        students = [whole.extract_model([graph.input[0].name], [name]) for name in features]
        last = whole.extract_model(features, [output.name for output in graph.output])
    except (KeyError, ValueError, onnx.checker.ValidationError) as error:
        raise ArtifactError(f"this file cannot be divided at {joins[-1].output[0]}, its last concatenation") from error
    return [strip(part) for part in (*students, last)]
