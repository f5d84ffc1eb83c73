"""Stages: a model after a prefix of a recipe, rebuilt from architecture, decisions and weights, and cached by them."""

import contextlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from safetensors.torch import load, save
from torch import nn

from ..errors import NothingToDo
from ..recipe import Recipe, digest
from ..techniques import Decision, Technique
from ..techniques.sources import code_from_elsewhere

NOTHING = "nothing to do"  # the decision of a step that found nothing holds this alone, with the reason
CACHE_BYTES = 2_000_000_000


def pack_weights(model: nn.Module) -> bytes:
    """A module's parameters and buffers as safetensors."""
    return save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()})


def rebuild(model: nn.Module, recipe: Recipe, decisions: list[Decision], weights: bytes) -> nn.Module:
    """The compressed module, to the last bit, from its architecture, recorded decisions and weights.

    model is the uncompressed architecture with any weights; it may be changed.
    """
    model = replay(model, recipe, decisions)
    model.load_state_dict(load(weights))
    return model.eval()


def replay(model: nn.Module, recipe: Recipe, decisions: list[Decision]) -> nn.Module:
    """The model with recorded decisions carried out on its own weights; encode steps act on files, not here."""
    for step, decision in zip(recipe.steps, decisions, strict=False):
        if isinstance(step, Technique) and step.kind != "encode" and NOTHING not in decision:
            model = step.apply(model, decision)
    return model


def changed(step: Technique, subject: Any, decision: Decision) -> Any:
    """A module or file with a decision carried out. Raises NothingToDo for a file that stays as it is."""
    if step.kind != "encode":
        return step.apply(subject, decision)
    before = _contents(subject)
    after = step.apply(subject, decision)
    if _contents(after) == before:
        skipped = "; ".join(f"{name}: {why}" for name, why in decision.get("skipped", {}).items())
        raise NothingToDo(
            f"{step.technique} changes nothing in the file of this model ({skipped or 'it names no reason'}): "
            "leave the step out"
        )
    return after


def _contents(model: onnx.ModelProto) -> list[bytes]:
    """What a file computes and stores, names of values included."""
    return [part.SerializeToString(deterministic=True) for part in (*model.graph.node, *model.graph.initializer)]


@dataclass(frozen=True)
class StageCache:
    """Trained stages in a folder of this node, found by everything that made them; the oldest go first.

    base identifies task, baseline, seed and this package's code; the code of techniques from elsewhere is added.
    Entries are written whole or not at all, so that any process may be killed at any time.
    """

    folder: Path
    base: str

    def _path(self, prefix: Recipe) -> Path:
        others = code_from_elsewhere([type(step) for step in prefix.steps])
        return self.folder / digest([self.base, prefix.to_data(), *others])[:32]

    def longest(self, recipe: Recipe) -> tuple[int, list[Decision], bytes] | None:
        """How many steps the longest cached prefix has, with its decisions and weights; None when there is none."""
        for length in range(len(recipe.steps), 0, -1):
            if recipe.steps[length - 1].kind != "train":
                continue
            path = self._path(recipe.prefix(length))
            try:
                decisions: list[Any] = json.loads((path / "decisions.json").read_text())
                weights = (path / "weights.safetensors").read_bytes()
            except (OSError, ValueError):
                continue
            with contextlib.suppress(OSError):
                os.utime(path)
            return length, decisions, weights
        return None

    def store(self, prefix: Recipe, decisions: list[Decision], model: nn.Module) -> None:
        """Keep a stage; does nothing when it is there already, or when there is no room: it saves time and no more."""
        path = self._path(prefix)
        with contextlib.suppress(OSError):
            if path.exists():
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))
            try:
                (temporary / "decisions.json").write_text(json.dumps(decisions))
                (temporary / "weights.safetensors").write_bytes(pack_weights(model))
                temporary.rename(path)
            except OSError:  # no room, or another worker was first, with the same bytes
                _remove(temporary)
            self._trim()

    def _trim(self) -> None:
        entries = []
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):
                entries.append((path.stat().st_mtime, sum(f.stat().st_size for f in path.iterdir()), path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= CACHE_BYTES:
                return
            _remove(path)
            total -= size


def _remove(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            path.unlink(missing_ok=True)
        folder.rmdir()
