"""Patient distillation: which layers are matched, by the paper; the loss in numpy; and what has no hidden states."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import NothingToDo
from autocompress.techniques import Context
from autocompress.techniques.features import before_head
from autocompress.techniques.training.patient_distill import PatientDistill, States, blocks, matched
from autocompress.testing.models import make_task, seeded
from autocompress.testing.splits import CLASSES, WORDS, sentences
from autocompress.testing.work import context_of, damaged, teacher_of
from autocompress.trial.stages import pack_weights

QUICK: dict[str, Any] = {"epochs": 2, "learning_rate": 3e-3, "batch_size": 16}


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Encoder(nn.Module):
    """A transformer of any depth and width."""

    sees = staticmethod(sentences)

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, width)
        layer = nn.TransformerEncoderLayer(width, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, words: Tensor, padding: Tensor) -> Tensor:
        x = self.encoder(self.embedding(words), src_key_padding_mask=padding)
        output: Tensor = self.head(x.masked_fill(padding[..., None], 0.0).mean(1))
        return output


def encoder(depth: int, width: int) -> nn.Module:
    return seeded(lambda: Encoder(depth, width))


def deep(depth: int = 6) -> Context:
    def made() -> nn.Module:
        return Encoder(depth, 16)

    made.sees = sentences  # type: ignore[attr-defined]
    return Context(make_task(made), seeded(made).requires_grad_(False), 7)


def test_layers_are_those_of_the_paper_for_six_of_twelve() -> None:
    """Sun et al. (2019), 3.2, counted from 1 there: every second is 2, 4, 6, 8, 10, and the last are 7 to 11."""
    assert matched(6, 12, "every") == {0: 1, 1: 3, 2: 5, 3: 7, 4: 9}
    assert matched(6, 12, "last") == {0: 6, 1: 7, 2: 8, 3: 9, 4: 10}


def test_as_many_blocks_are_matched_one_to_one_and_a_single_one_with_the_last() -> None:
    for take in ("every", "last"):
        assert matched(3, 3, take) == {0: 0, 1: 1}
        assert matched(1, 4, take) == {0: 3}
        assert all(0 <= there < 2 for there in matched(5, 2, take).values()), "a deeper student is matched too"


def test_the_loss_is_that_of_the_paper_averaged_over_positions() -> None:
    """Sun et al. (2019), equation 7, for one layer."""
    own, other = random(0, 4, 6, 5), random(1, 4, 6, 5)
    expected = []
    for i in range(4):
        for t in range(5):
            a, b = own[i, :, t].numpy(), other[i, :, t].numpy()
            expected.append(np.sum((a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2))
    assert float(States(6, 6)(own, other)) == pytest.approx(np.mean(expected), rel=1e-9)
    assert not list(States(6, 6).parameters()), "states of one width need no adapter"


def test_its_gradients_are_right_with_an_adapter_too() -> None:
    loss = States(3, 4).double()
    assert len(list(loss.parameters())) == 2
    assert torch.autograd.gradcheck(loss, (random(0, 2, 3, 3).requires_grad_(), random(1, 2, 4, 3)))


def test_blocks_are_found_in_lists_and_nowhere_else() -> None:
    context = context_of("sentences")
    found = blocks(context.teacher, before_head(context.teacher, context))
    assert found == {"encoder.layers": ["encoder.layers.0", "encoder.layers.1"]}
    for model in ("residual", "signals", "mlp", "recurrent"):
        assert blocks(teacher_of(model), before_head(teacher_of(model), context_of(model))) == {}


def test_a_shallow_student_learns_from_every_second_block_or_the_last() -> None:
    layers = [f"encoder.layers.{at}" for at in range(6)]
    found = PatientDistill().decide(encoder(3, 16), deep())
    assert found == {"pairs": {layers[0]: layers[1], layers[1]: layers[3]}}
    found = PatientDistill(take="last").decide(encoder(3, 16), deep())
    assert found == {"pairs": {layers[0]: layers[3], layers[1]: layers[4]}}


@pytest.mark.parametrize("model", ["plain", "residual", "signals", "mlp", "recurrent"])
def test_a_network_without_hidden_states_is_refused(model: str) -> None:
    with pytest.raises(NothingToDo, match=r"patient_distill finds no blocks .*: use distill, hint_distill or"):
        PatientDistill().decide(damaged(model), context_of(model))


class Bag(nn.Module):
    """A mean of embeddings, without blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(WORDS, 8), nn.Linear(8, CLASSES)

    def forward(self, words: Tensor, padding: Tensor) -> Tensor:
        output: Tensor = self.head(self.embedding(words).mean(1))
        return output


def test_a_student_without_blocks_is_refused() -> None:
    with pytest.raises(NothingToDo, match="patient_distill finds no blocks"):
        PatientDistill().decide(Bag().eval(), context_of("sentences"))


def test_a_narrower_and_shallower_student_is_trained_the_same_to_the_bit_and_keeps_no_adapter() -> None:
    context = deep()
    students = [encoder(3, 8), encoder(3, 8)]
    before, keys = pack_weights(context.teacher), students[0].state_dict().keys()
    for student in students:
        PatientDistill(**QUICK).train(student, context)
    assert pack_weights(students[0]) == pack_weights(students[1]) != pack_weights(encoder(3, 8))
    assert students[0].state_dict().keys() == keys
    assert pack_weights(context.teacher) == before
