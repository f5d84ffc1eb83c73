"""An encode step that leaves the file as it is is no step, and is said to be none."""

from typing import Any, ClassVar

import onnx
from plain import plain_task

from autocompress.artifacts.export import export_onnx
from autocompress.recipe import Kind, Recipe
from autocompress.tasks.examples import example_inputs
from autocompress.techniques import Context, Decision, Technique
from autocompress.techniques.quantization.float16 import Float16
from autocompress.testing.models import Plain, seeded
from autocompress.trial.run import Run
from autocompress.trial.stages import NOTHING
from autocompress.trial.worker import Clock


class Idle(Technique):
    """Says what it leaves out, and writes down shapes."""

    technique: ClassVar[str] = "idle"
    family: ClassVar[str] = "quantization"
    kind: ClassVar[Kind] = "encode"

    def decide(self, model: onnx.ModelProto, context: Context) -> Decision:
        return {"skipped": {"conv1": "it is too odd"}}

    def apply(self, model: onnx.ModelProto, decision: Decision) -> onnx.ModelProto:
        model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
        return onnx.shape_inference.infer_shapes(model)


def encode(step: Technique) -> tuple[onnx.ModelProto, list[Decision]]:
    task: Any = plain_task()
    model = seeded(Plain)
    run = Run(Recipe((step,)), model, [], Context(task, model, 0), None, b"")
    return run.encode(export_onnx(model, example_inputs(task)), Clock()), run.decisions


def test_a_step_that_changes_nothing_in_the_file_found_nothing_to_do() -> None:
    _, (decision,) = encode(Idle())
    assert decision.keys() == {NOTHING}
    assert decision[NOTHING].startswith("idle changes nothing in the file of this model (conv1: it is too odd): leave")
    halved, (decision,) = encode(Float16())
    assert NOTHING not in decision
    assert "Cast" in {node.op_type for node in halved.graph.node}
