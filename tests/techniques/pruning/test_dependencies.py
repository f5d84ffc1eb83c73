"""Networks of many forms: what depends on a channel is found, removed with it, and rebuilt and exported."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from autocompress import Classification
from autocompress.artifacts.export import export_onnx
from autocompress.artifacts.parity import TOLERANCE, check_parity
from autocompress.artifacts.runtime import Model
from autocompress.recipe import Recipe
from autocompress.techniques import Context
from autocompress.techniques.outputs import output_layers
from autocompress.techniques.pruning._dependencies import find_groups
from autocompress.techniques.pruning.channel_pruning import ChannelPruning
from autocompress.testing.work import json_copy
from autocompress.trial.stages import pack_weights, rebuild

SEQUENCE = (6, 12)
IMAGE = (3, 16, 16)


class Sequence(nn.Module):
    """A recurrent classifier that reads the last step, or all of them."""

    def __init__(self, kind: type[nn.RNNBase], layers: int = 1, both: bool = False, flat: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 10)
        self.rnn = kind(10, 16, num_layers=layers, bidirectional=both, batch_first=True)
        width = 16 * (1 + both)
        self.fc = nn.Linear(width * 6 if flat else width, 20)
        self.head = nn.Linear(20, 4)
        self.flat = flat

    def forward(self, x: Tensor) -> Tensor:
        steps = self.rnn(torch.tanh(self.embed(x)))[0]
        return self.head(torch.relu(self.fc(steps.flatten(1) if self.flat else steps[:, -1])))


class LastState(nn.Module):
    """A classifier that reads the final hidden state, and keeps its width in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_size = 16
        self.rnn = nn.LSTM(12, self.hidden_size, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        start = torch.zeros(1, len(x), self.hidden_size)
        return self.head(self.rnn(x, (start, start))[1][0][-1])


class Encoder(nn.Module):
    """A transformer's encoder with learned positions, and a classifier over the mean of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 16)
        self.position = nn.Parameter(torch.randn(1, 6, 16) * 0.02)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x) + self.position).mean(1))


class Shuffled(nn.Module):
    """A unit as in ShuffleNetV2: half of the channels pass, half are convolved, then both are mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.inner = nn.Conv2d(8, 12, 1)
        self.outer = nn.Conv2d(12, 8, 1)
        self.last = nn.Conv2d(16, 24, 3)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.relu(self.stem(x)).chunk(2, 1)
        x = torch.cat([left, torch.relu(self.outer(torch.relu(self.inner(right))))], 1)
        x = x.unflatten(1, (2, 8)).transpose(1, 2).flatten(1, 2)
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


class Parted(nn.Module):
    """Unequal parts that go different ways and come together in another order, with the inputs beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.inner = nn.Conv2d(10, 12, 3, padding=1)
        self.last = nn.Conv2d(3 + 12 + 6, 24, 3)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        small, large = torch.relu(self.stem(x)).split([6, 10], 1)
        mixed = torch.cat([x, torch.relu(self.inner(large)), small], 1)
        return self.head(torch.relu(self.last(mixed)).mean((2, 3)))


def vit() -> nn.Module:
    """A vision transformer of two narrow layers."""
    model = torchvision.models.VisionTransformer(
        image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=4
    )
    nn.init.normal_(model.heads.head.weight)  # which it starts at zero
    return model


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{
        f"{kind.__name__.lower()}{layers}{'_both' if both else ''}": (
            lambda kind=kind, layers=layers, both=both: Sequence(kind, layers, both),
            SEQUENCE,
        )
        for kind in (nn.LSTM, nn.GRU, nn.RNN)
        for layers, both in [(1, False), (2, True)]
    },
    "lstm_flat": (lambda: Sequence(nn.LSTM, flat=True), SEQUENCE),
    "last_state": (LastState, SEQUENCE),
    "encoder": (Encoder, SEQUENCE),
    "shuffled": (Shuffled, IMAGE),
    "parted": (Parted, IMAGE),
    "vit": (vit, IMAGE),
}
every_network = pytest.mark.parametrize("name", list(NETWORKS))


def made(name: str, seed: int = 0) -> tuple[nn.Module, Context, Tensor]:
    """A network with its task and eight inputs."""
    build, shape = NETWORKS[name]
    torch.manual_seed(seed)
    model = build().eval()
    split = (torch.randn(8, *shape), torch.arange(8) % 4)
    return model, Context(Classification(build, split, split, split), model, seed=0), split[0]


def pruned(model: nn.Module, context: Context, **settings: Any) -> tuple[dict[str, Any], nn.Module]:
    """The decision for a network, and a copy of it with that carried out."""
    step = ChannelPruning.model_validate({"importance": "l1", "scope": "layer", **settings})
    decision = step.decide(model, context)
    return decision, step.apply(copy.deepcopy(model), decision)


@every_network
@pytest.mark.parametrize("importance", ["l1", "taylor", "fpgm", "conductance"])
def test_half_of_the_channels_go_and_the_rest_is_rebuilt_to_the_last_bit(name: str, importance: str) -> None:
    model, context, inputs = made(name)
    decision, after = pruned(model, context, importance=importance)
    again = rebuild(NETWORKS[name][0]().eval(), Recipe((ChannelPruning(),)), [json_copy(decision)], pack_weights(after))
    with torch.no_grad():
        assert torch.equal(after(inputs), again(inputs))
        assert after(inputs).shape == (8, 4)
    assert decision["layers"]
    for change in decision["layers"].values():
        before, left = (int(part) for part in change.split(" -> "))
        assert left == before // 2


@pytest.mark.parametrize("name", ["lstm2_both", "gru1", "encoder", "shuffled", "parted", "vit"])
def test_the_exported_file_computes_what_the_pruned_network_does(name: str) -> None:
    model, context, inputs = made(name)
    _, after = pruned(model, context)
    exported = export_onnx(after, (inputs[:4],))
    assert check_parity(after, exported, (inputs[:4],)) <= TOLERANCE
    assert Model(exported.SerializeToString())(inputs[:3].numpy()).shape == (3, 4)


@pytest.mark.parametrize(
    "name", [name for name in NETWORKS if "1" in name or "2" in name] + ["last_state", "lstm_flat"]
)
def test_hidden_units_that_stay_at_zero_go_and_nothing_changes(name: str) -> None:
    """Without weights into its gates, a unit of an LSTM, GRU or RNN starts at zero and stays there."""
    model, context, inputs = made(name)
    dead = [1, 2, 5, 7, 8, 11, 13, 14]
    with torch.no_grad():
        for parameter in model.rnn.parameters():
            parameter.view(-1, 16, *parameter.shape[1:])[:, dead] = 0
    decision, after = pruned(model, context, keep=[layer for layer in ("embed", "fc") if hasattr(model, layer)])
    units = next(where for layer, outputs, where in decision["history"] if layer == "rnn" and outputs)
    assert sorted({unit % 16 for unit in units}) == dead
    assert after.rnn.hidden_size == 8
    with torch.no_grad():
        torch.testing.assert_close(after(inputs), model(inputs))


def test_a_state_that_the_model_makes_itself_gets_the_new_width() -> None:
    model, context, _ = made("last_state")
    decision, after = pruned(model, context)
    assert decision["widths"] == {"hidden_size": 8}
    assert after.hidden_size == 8


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("encoder", "encoder.layers.0.linear1", "encoder.layers.0.linear2"),
        ("vit", "encoder.layers.encoder_layer_1.mlp.0", "encoder.layers.encoder_layer_1.mlp.3"),
        ("shuffled", "inner", "outer"),
        ("parted", "inner", "last"),
    ],
)
def test_channels_that_nothing_reads_go_and_nothing_changes(name: str, first: str, second: str) -> None:
    model, context, inputs = made(name)
    read = model.get_submodule(second).weight
    offset = 3 if name == "parted" else 0  # the inputs come first in what the last layer reads
    width = len(model.get_submodule(first).weight)
    dead = list(range(0, width, 2))
    with torch.no_grad():
        read[:, [channel + offset for channel in dead]] = 0
        model.get_submodule(first).weight[dead] *= 1e-3
    kinds = nn.Linear | nn.Conv2d | nn.MultiheadAttention
    layers = [other for other, module in model.named_modules() if isinstance(module, kinds)]
    decision, after = pruned(model, context, keep=[other for other in layers if other != first])
    assert [where for layer, outputs, where in decision["history"] if layer == first and outputs] == [dead]
    with torch.no_grad():
        torch.testing.assert_close(after(inputs), model(inputs), rtol=1e-4, atol=1e-5)


def test_parts_of_a_split_are_followed_to_where_each_of_them_goes() -> None:
    model, context, _ = made("parted")
    groups, _ = find_groups(model, context.example, output_layers(model, context.example))
    stem = next(group for group in groups if group.name == "stem")
    reads = {part.name: list(zip(part.channels, part.positions, strict=True)) for part in stem.parts}
    assert sorted(reads["inner"]) == [(6 + index, index) for index in range(10)]
    assert sorted(reads["last"]) == [(index, 15 + index) for index in range(6)]
    inner = next(group for group in groups if group.name == "inner")
    reads = {part.name: list(zip(part.channels, part.positions, strict=True)) for part in inner.parts}
    assert sorted(reads["last"]) == [(index, 3 + index) for index in range(12)]


def test_channels_that_are_shuffled_are_left_alone_and_said() -> None:
    model, context, _ = made("shuffled")
    decision, _ = pruned(model, context)
    assert decision["layers"] == {"inner.weight": "12 -> 6", "last.weight": "24 -> 12"}
    assert set(decision["skipped"].values()) == {"its channels are shuffled with others"}


def test_torchs_attention_loses_whole_heads_in_every_layer() -> None:
    model, context, _ = made("encoder")
    decision, after = pruned(model, context)
    gone = {name: where for name, outputs, where in decision["history"] if outputs and ".self_attn." in name}
    assert len(decision["opened"]) == 2
    for name in decision["opened"]:
        lost = gone[f"{name}.value"]
        assert gone[f"{name}.query"] == gone[f"{name}.key"] == lost
        heads = sorted({position // 4 for position in lost})
        assert lost == [4 * head + place for head in heads for place in range(4)]
        assert len(heads) == 2, "two of four"
        attention = after.get_submodule(name)
        assert attention.width == 4
        assert attention.value.weight.shape == (8, 8)
        assert attention.out_proj.weight.shape == (8, 8)
    assert after.position.shape == (1, 6, 8)


def test_a_vision_transformer_loses_width_tokens_and_positions_included() -> None:
    model, context, _ = made("vit")
    decision, after = pruned(model, context)
    assert decision["widths"] == {"hidden_dim": 8}
    assert after.class_token.shape == (1, 1, 8)
    assert after.encoder.pos_embedding.shape == (1, 17, 8)
    assert after.encoder.layers[0].mlp[0].weight.shape == (16, 8)
    assert after.heads.head.weight.shape == (4, 8)


def test_a_pruned_network_is_pruned_again() -> None:
    for name in ("lstm2_both", "encoder", "vit", "shuffled"):
        model, context, inputs = made(name)
        _, once = pruned(model, context)
        _, twice = pruned(once, context)
        assert sum(p.numel() for p in twice.parameters()) < sum(p.numel() for p in once.parameters())
        with torch.no_grad():
            assert twice(inputs).shape == (8, 4)


def test_a_channel_that_is_taken_for_another_is_noticed() -> None:
    """What comes out of a permutation with another meaning than its position must not be pruned by position."""

    class Permuted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            return self.head(torch.relu(self.second(x.roll(1, 1))).mean((2, 3)))

    torch.manual_seed(0)
    model = Permuted().eval()
    split = (torch.randn(8, *IMAGE), torch.arange(8) % 4)
    context = Context(Classification(Permuted, split, split, split), model, seed=0)
    decision, _ = pruned(model, context)
    assert decision["layers"] == {"second.weight": "12 -> 6"}
    assert decision["skipped"] == {"first": "they cannot be followed through the model"}


def test_finding_groups_leaves_the_model_as_it_is() -> None:
    for name in ("lstm1", "encoder"):
        model, context, inputs = made(name)
        model.requires_grad_(False)
        with torch.no_grad():
            before = model(inputs)
        find_groups(model, context.example, output_layers(model, context.example))
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert not any("forward" in vars(module) for module in model.modules())
        with torch.no_grad():
            assert torch.equal(model(inputs), before)
