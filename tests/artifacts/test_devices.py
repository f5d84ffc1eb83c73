"""Files of single devices: together they compute what the whole file does, whatever it is encoded in."""

import functools

import numpy as np
import onnx
import pytest

from autocompress.artifacts.devices import files_of_devices
from autocompress.artifacts.export import strip
from autocompress.artifacts.packing import pack
from autocompress.artifacts.runtime import Model
from autocompress.errors import ArtifactError
from autocompress.techniques import recipe_from_data
from autocompress.techniques.training.nonn import Nonn
from autocompress.testing.work import Work, context_of, example_of, exported_of, quick, work

ENCODINGS = [{}, {"technique": "int8_static"}, {"technique": "low_bit", "bits": 4}, {"technique": "float16"}]


@functools.cache
def students() -> Work:
    found = work(quick(Nonn).model_copy(update={"students": 3}), "plain")
    assert isinstance(found, Work)
    return found


def encoded(row: dict[str, object]) -> onnx.ModelProto:
    """The students' file after a step."""
    model = onnx.ModelProto()
    model.CopyFrom(students().exported)
    for step in recipe_from_data({"version": 1, "steps": [row]}).steps if row else ():
        model = step.apply(model, step.decide(model, context_of("plain")))
    return strip(pack(model))


@pytest.mark.parametrize("row", ENCODINGS, ids=str)
def test_the_files_of_students_and_join_compute_what_the_whole_file_does(row: dict[str, object]) -> None:
    whole, image = encoded(row), example_of("plain", 5)[0].numpy()
    *each, last = [file.SerializeToString() for file in files_of_devices(whole)]
    assert len(each) == 3
    features = [Model(file)(image) for file in each]
    assert [part.shape[1] for part in features] == [len(part) for part in students().decision["parts"]]
    # Integers may be rounded elsewhere where the runtime fuses over the cut.
    allowed = 0.02 if row.get("technique") == "int8_static" else 1e-6
    expected = Model(whole.SerializeToString())(image)
    assert np.abs(Model(last)(*features) - expected).max() <= allowed * np.abs(expected).max()


def test_no_student_holds_much_more_than_its_share() -> None:
    whole = encoded({})
    *each, last = [len(file.SerializeToString()) for file in files_of_devices(whole)]
    size = len(whole.SerializeToString())
    assert max(each) + last < 0.5 * size
    assert sum(each) + last == pytest.approx(size, rel=0.1)


def test_a_file_without_students_is_refused() -> None:
    with pytest.raises(ArtifactError, match="joins no students"):
        files_of_devices(strip(exported_of("plain")))


def test_what_is_sent_from_file_to_file_has_a_name_to_know_it_by() -> None:
    *each, last = files_of_devices(encoded({}))
    names = [f"features_{index}" for index in range(3)]
    assert [[output.name for output in file.graph.output] for file in each] == [[name] for name in names]
    assert [value.name for value in last.graph.input] == names
