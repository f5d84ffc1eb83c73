"""Torch programs compute what the module computes at every batch size, and hold nothing of the machine or the data."""

import io
import zipfile

import pytest
import torch
from torch import Tensor, nn

from autocompress.artifacts.program import check_program, export_program
from autocompress.errors import ArtifactError
from autocompress.testing.models import Plain, seeded


class Recurrent(nn.Module):
    """An LSTM, whose weights tracing touches, and words beside numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.lstm, self.head = nn.Embedding(9, 3), nn.LSTM(5, 6, batch_first=True), nn.Linear(9, 2)

    def forward(self, numbers: Tensor, word: Tensor) -> Tensor:
        last = self.lstm(numbers)[0][:, -1]
        output: Tensor = self.head(torch.cat([last, self.words(word)], 1))
        return output


class Branching(nn.Module):
    """Another sign for batches of negative sum, which no program can follow."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def example(model: type[nn.Module], count: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(count)
    if model is Plain:
        return (torch.randn(count, 3, 12, 12, generator=generator),)
    return torch.randn(count, 4, 5, generator=generator), torch.randint(9, (count,), generator=generator)


@pytest.mark.parametrize("kind", [Plain, Recurrent])
def test_a_program_computes_what_the_module_does_at_every_batch_size(kind: type[nn.Module]) -> None:
    model = seeded(kind).eval()
    data = export_program(model, example(kind, 4))
    program = torch.export.load(io.BytesIO(data)).module()
    for count in (1, 2, 3, 9):
        with torch.no_grad():
            torch.testing.assert_close(program(*example(kind, count)), model(*example(kind, count)))


def test_a_program_holds_neither_inputs_nor_paths() -> None:
    data = export_program(seeded(Plain), (torch.full((4, 3, 12, 12), 0.7310586),))
    archive = zipfile.ZipFile(io.BytesIO(data))
    parts = {name: archive.read(name) for name in archive.namelist()}
    assert not any(b"models.py" in part for part in parts.values())
    needle = torch.tensor([0.7310586] * 8).numpy().tobytes()
    assert not any(needle in part for part in parts.values())


def test_a_program_of_other_weights_is_found() -> None:
    data = export_program(seeded(Plain, 1), example(Plain, 4))
    with pytest.raises(ArtifactError, match=r"model\.pt2 differs from the model by .*, more than 0\.0001"):
        check_program(seeded(Plain, 2), data, example(Plain, 4))


def test_a_frozen_batch_size_is_found() -> None:
    program = torch.export.export(seeded(Plain).eval(), example(Plain, 4))
    file = io.BytesIO()
    torch.export.save(program, file)
    with pytest.raises(ArtifactError, match=r"model\.pt2 fails at batch size 1"):
        check_program(seeded(Plain), file.getvalue(), example(Plain, 4))


def test_what_is_no_program_is_found() -> None:
    with pytest.raises(ArtifactError, match=r"model\.pt2 cannot be loaded again"):
        check_program(seeded(Plain), b"no program", example(Plain, 4))


def test_a_model_that_torch_cannot_follow_is_refused_with_the_way_out() -> None:
    with pytest.raises(ArtifactError, match=r"torch\.export cannot save this model: .*: leave out --pt2"):
        export_program(Branching(), (torch.randn(4, 2),))
