"""Models that take their inputs by name, return several tensors, or sequences of any length."""

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from autocompress import Classification, Training
from autocompress.artifacts.export import export_onnx, strip
from autocompress.artifacts.packing import pack
from autocompress.artifacts.parity import check_parity
from autocompress.artifacts.runtime import Model
from autocompress.data import Signature, batches, in_memory, input_names
from autocompress.errors import ArtifactError, TaskError
from autocompress.tasks.calling import Called, one_output
from autocompress.tasks.checks import check_task, check_trainable
from autocompress.tasks.examples import example_inputs, input_signature, model_inputs, size_notes
from autocompress.tasks.models import build_model
from autocompress.testing import TaskContract

Pair = namedtuple("Pair", ["logits", "features"])


class Words(Dataset[Any]):
    """Sequences of 2 to 9 tokens, the first of which tells the class, as mappings in another order than forward's."""

    def __init__(self, count: int, seed: int) -> None:
        chance = torch.Generator().manual_seed(seed)
        lengths = torch.randint(2, 10, (count,), generator=chance).tolist()
        self.tokens = [torch.randint(1, 20, (length,), generator=chance) for length in lengths]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> Tensor:
        return self.tokens[index]

    def collate_fn(self, rows: list[Tensor]) -> dict[str, Tensor]:
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        labels = torch.stack([row[0] % 2 for row in rows])
        return {"mask": (tokens > 0).long(), "tokens": tokens, "labels": labels}


class Mean(nn.Module):
    """Means of embedded tokens, with the mask or without it; returns a mapping."""

    def __init__(self, masked: bool = True) -> None:
        super().__init__()
        self.embed, self.last, self.masked = nn.Embedding(20, 8), nn.Linear(8, 2), masked

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        weight = mask.unsqueeze(-1).float() if self.masked else torch.ones_like(mask).unsqueeze(-1).float()
        features = (self.embed(tokens) * weight).sum(1) / weight.sum(1)
        return {"features": features, "logits": self.last(features)}


class Sentiment:
    """A task over sequences of any length."""

    quality, baseline, classifies, output = "accuracy", Training(epochs=1), True, "logits"

    def __init__(self, masked: bool = True) -> None:
        self.masked = masked
        self.splits = {name: Words(40, seed) for seed, name in enumerate(("train", "validation", "test"))}

    def model(self) -> nn.Module:
        return Mean(self.masked)

    def split(self, name: str) -> Dataset[Any]:
        return self.splits[name]

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, target)

    def metrics(self, output: Any, target: Any) -> dict[str, float]:
        return {"accuracy": float((output.argmax(1) == target).mean())}


class TestSentiment(TaskContract):
    @pytest.fixture
    def task(self) -> Any:
        return Sentiment()


def test_inputs_are_passed_by_name_and_the_file_takes_any_length() -> None:
    task = Sentiment()
    check_task(task)
    check_trainable(task, 0)
    assert input_names(task.split("train")) == ("mask", "tokens")
    assert not in_memory(task.split("train"))
    model = build_model(task, 0).eval()
    assert isinstance(model, Called)
    batch = next(batches(task.split("validation"), 5))
    mask, tokens = batch.inputs
    with torch.no_grad():
        assert torch.equal(model(mask, tokens), model.model(tokens, mask)["logits"])
    assert input_signature(task).varying == (frozenset({1}), frozenset({1}))
    assert len({array.shape for array in model_inputs(task, 3)}) == 1
    example = example_inputs(task)
    exported = export_onnx(model, example, input_signature(task))
    assert check_parity(model, exported, example, signature=input_signature(task)) < 1e-5
    assert Model(exported.SerializeToString()).inputs == ["mask", "tokens"]
    assert [value.name for value in exported.graph.output] == ["logits"]
    frozen = export_onnx(model, example)
    with pytest.raises(ArtifactError, match="fails at batch size 1, inputs"):
        check_parity(model, frozen, example, signature=input_signature(task))


class Turned(nn.Module):
    """A recurrent layer backwards over examples that are turned round by their lengths, which are inputs."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.packed, self.back, self.head = packed, nn.GRU(2, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.packed:
            rows = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return self.head(self.back(rows)[1][0])
        places = torch.arange(x.shape[1])[None]
        turned = torch.where(places < lengths[:, None], lengths[:, None] - 1 - places, places)
        made, _ = self.back(torch.gather(x, 1, turned[..., None].expand(-1, -1, 2)))
        mask = (places < lengths[:, None])[..., None]
        return self.head((made * mask).sum(1) / mask.sum(1))


class Waves(Dataset[Any]):
    """Series of several lengths, with their lengths beside them."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.randn(5 + index % 7, 2, generator=torch.Generator().manual_seed(index)), index % 2

    @staticmethod
    def collate_fn(rows: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor, Tensor]:
        padded = nn.utils.rnn.pad_sequence([row[0] for row in rows], batch_first=True)
        return padded, torch.tensor([len(row[0]) for row in rows]), torch.tensor([row[1] for row in rows])


def test_lengths_that_are_inputs_go_with_the_series_that_a_file_is_tried_on() -> None:
    data = Waves()
    task = Classification(lambda: Turned(False), data, data, data, None)
    signature, example = input_signature(task), example_inputs(task)
    assert [tuple(map(len, inputs)) for inputs in signature.sizes] == [(1, 1), (2, 2)]
    assert [inputs[0].shape[1] for inputs in signature.sizes] == [5, 11]
    model = build_model(task, 0).eval()
    exported = export_onnx(model, example, signature)
    assert check_parity(model, exported, example, signature=signature) < 1e-5


def test_packed_sequences_are_named_as_what_no_file_can_say() -> None:
    data = Waves()
    task = Classification(lambda: Turned(True), data, data, data, None)
    with pytest.raises(ArtifactError, match=r"its forward calls pack_padded_sequence, .* leave padding out by a mask"):
        export_onnx(build_model(task, 0).eval(), example_inputs(task), input_signature(task))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("layer.weight", "bias"), ["layer.weight", "bias"]),
        (("output", "bias"), ["input_0", "input_1"]),
        (("one",), ["input_0", "input_1"]),
    ],
)
def test_a_file_names_its_inputs_as_the_data_does_whatever_weights_are_called(
    given: tuple[str, ...], named: list[str]
) -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.bias = nn.Linear(3, 2), nn.Parameter(torch.ones(2))

        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            return self.layer(first) + self.layer(second) * self.bias

    model, example = Sum().eval(), (torch.randn(4, 3), torch.randn(4, 3))
    exported = export_onnx(model, example, Signature(names=given))
    file = strip(pack(exported))
    assert Model(file.SerializeToString()).inputs == named
    assert check_parity(model, file, example) < 1e-5


def test_latency_is_of_inputs_of_middling_length() -> None:
    task = Sentiment()
    lengths = sorted(len(tokens) for tokens in task.splits["validation"].tokens)
    (_, tokens) = model_inputs(task, 1)
    middle = lengths[len(lengths) // 2]
    assert tokens.shape == (1, middle)
    assert size_notes(task, 1) == [
        f"sizes vary along axis 1 of mask, axis 1 of tokens; latency is of inputs (1, {middle}), (1, {middle}), "
        "the middle of 40 validation examples"
    ]


def test_a_model_that_takes_padding_for_data_is_refused() -> None:
    with pytest.raises(TaskError, match="changes with its padding beside a longer one: give it a mask"):
        check_trainable(Sentiment(masked=False), 0)


def test_an_input_that_forward_does_not_take_is_refused() -> None:
    task = Sentiment()
    for words in task.splits.values():
        words.collate_fn = lambda rows: {"tokens": torch.ones(len(rows), 2).long(), "maks": torch.ones(len(rows), 2),
                                         "labels": torch.zeros(len(rows)).long()}  # type: ignore[method-assign]  # fmt: skip
    with pytest.raises(TaskError, match=r"an input 'maks', which forward.. does not take: did you mean 'mask'"):
        build_model(task, 0)


class Swallowing(Mean):
    """Takes whatever else it is given, and does nothing with it."""

    def forward(self, tokens: Tensor, mask: Tensor | None = None, **others: Tensor) -> dict[str, Tensor]:
        return super().forward(tokens, torch.ones_like(tokens) if mask is None else mask)


def test_an_input_that_forward_would_swallow_is_refused() -> None:
    task = Sentiment()
    task.model = Swallowing  # type: ignore[method-assign]
    assert isinstance(build_model(task, 0), Called)
    for words in task.splits.values():
        words.collate_fn = lambda rows: {"tokens": torch.ones(len(rows), 2).long(), "attention_mask": torch.ones(2),
                                         "labels": torch.zeros(len(rows)).long()}  # type: ignore[method-assign]  # fmt: skip
    with pytest.raises(
        TaskError, match=r"an input 'attention_mask', which forward\(\) does not take: known: mask, tok"
    ):
        build_model(task, 0)


@pytest.mark.parametrize(
    ("output", "name", "expected"),
    [
        (torch.ones(2), None, 1),
        ({"logits": torch.full((2,), 3.0), "state": torch.ones(2)}, None, 3),
        ({"only": torch.full((2,), 4.0)}, None, 4),
        ({"a": torch.ones(2), "b": torch.full((2,), 5.0)}, "b", 5),
        (Pair(torch.full((2,), 6.0), torch.ones(2)), None, 6),
        (Pair(torch.ones(2), torch.full((2,), 7.0)), "features", 7),
        ((torch.ones(2), torch.full((2,), 8.0)), 1, 8),
    ],
)
def test_which_output_is_taken(output: Any, name: Any, expected: float) -> None:
    assert float(one_output(output, name)[0]) == expected


@pytest.mark.parametrize(
    ("output", "name", "message"),
    [
        ({"a": torch.ones(2), "b": torch.ones(2)}, None, "returned a dict with several outputs: .*: 'a', 'b'"),
        ({"a": torch.ones(2)}, "b", "returned a dict with no tensor 'b': name one by task.output: 'a'"),
        ((torch.ones(2), torch.ones(2)), None, "returned a tuple with several outputs: .*: 0, 1"),
        (None, None, "returned a NoneType with several outputs: name one by task.output: no tensor"),
    ],
)
def test_outputs_among_which_none_is_named_are_refused(output: Any, name: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        one_output(output, name)


class Plain(Sentiment):
    def __init__(self) -> None:
        super().__init__()
        self.output = None  # type: ignore[assignment]


def test_a_mapping_of_outputs_is_named_in_the_error() -> None:
    task = Plain()
    for words in task.splits.values():
        words.collate_fn = lambda rows: {"tokens": torch.ones(len(rows), 2).long(),
                                         "mask": torch.ones(len(rows), 2).long(),
                                         "labels": torch.zeros(len(rows)).long()}  # type: ignore[method-assign]  # fmt: skip
    with pytest.raises(
        TaskError, match=r"returned a dict: return one tensor .*, or name one by task.output: 'features'"
    ):
        check_task(task)


@pytest.mark.parametrize(
    ("inputs", "output", "named"),
    [(("x",), "logits", "logits"), (("x",), "", "output"), (("x",), "x", "output"), ((), "input", "output")],
)
def test_an_output_is_called_as_the_task_does_unless_an_input_is(
    inputs: tuple[str, ...], output: str, named: str
) -> None:
    exported = export_onnx(nn.Linear(3, 2), (torch.ones(2, 3),), Signature(names=inputs, output=output))
    assert [value.name for value in exported.graph.output] == [named]
    assert [value.name for value in exported.graph.input] == [*(inputs or ["input"])]
    assert Model(exported.SerializeToString())(torch.ones(1, 3).numpy()).shape == (1, 2)
