"""Texts without code: a table of texts and labels, and a transformer of a local folder."""

import copy
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..errors import TaskError, suggest
from ..training import Training
from .blame import one_line
from .calling import LOGITS
from .class_weights import Weighted
from .image_data import SplitShares
from .kinds import Load, TaskKind
from .labels import read_labels
from .preparation import Preparation, several
from .protocol import Array, Classification
from .remarks import Remarks
from .tables import check_filled, divided, plain, read_table

USUAL = Training(epochs=3, learning_rate=5e-5, batch_size=16)
SOURCE = "transformers"
TRAINED = "ForSequenceClassification"


class TextPreparation(Preparation):
    """Texts, by the tokenizer that the model came with: `tokenizer` is what the library tokenizers writes of it."""

    example: ClassVar[str] = '"a text"'

    tokenizer: str
    max_length: int = Field(ge=2, le=100_000)
    padding: int = Field(ge=0)
    truncation_side: Literal["left", "right"] = "right"

    def arrays(self, raw: Any) -> tuple[Array, ...]:
        """Tokens (N, length) and their mask (N, length). Raises TaskError for what is no text."""
        texts = several(raw)
        odd = next((each for each in texts if not isinstance(each, str)), None)
        if odd is not None:
            raise TaskError(f"{odd!r} is no text: give a string, or a list of them")
        tokens = [
            each.ids
            for each in _tokenizer(self.tokenizer, self.max_length, self.truncation_side).encode_batch(list(texts))
        ]
        filled = Sentences(tokens, torch.zeros(len(tokens), dtype=torch.long), self.padding)[torch.arange(len(tokens))]
        return filled["input_ids"].numpy(), filled["attention_mask"].numpy()


@functools.lru_cache(maxsize=2)
def _tokenizer(data: str, most: int, side: str) -> Any:
    """A tokenizer that cuts texts to so many tokens, on a side. Raises TaskError."""
    try:
        import tokenizers
    except ImportError:
        raise TaskError("tokenizers is not installed: pip install 'autocompress[text]'") from None
    try:
        found = tokenizers.Tokenizer.from_str(data)
    except Exception as error:
        raise TaskError(f"the tokenizer cannot be read: {one_line(error)}") from None
    found.no_padding()
    found.enable_truncation(most, direction=side)
    return found


def _prepared(config: "TextClassificationConfig", tokenizer: Any) -> TextPreparation | None:
    """What files keep of a tokenizer; nothing of one that is written in Python."""
    own = getattr(tokenizer, "backend_tokenizer", None)
    if own is None:
        return None
    return TextPreparation(
        kind=config.kind,
        tokenizer=own.to_str(),
        max_length=config.max_length,
        padding=int(tokenizer.pad_token_id),
        truncation_side=tokenizer.truncation_side,
    )


class TextClassificationConfig(Weighted, TaskKind):
    """The `task:` mapping of a search config with `kind: text_classification`.

    data is `csv:FILE` or `parquet:FILE` with a column of texts and one of labels. model is `transformers:FOLDER`, as
    `save_pretrained` writes it: config.json, weights in safetensors, and its tokenizer. A model without a classifier
    for these labels gets a new one and is trained first, as `baseline` says. Rows that share a value of the column
    `group`, or their text, stay in one split.
    """

    preparation: ClassVar[type[TextPreparation]] = TextPreparation
    kind: Literal["text_classification"]
    data: str = Field(pattern=r"^(csv|parquet):.+$")
    text: str = "text"
    label: str = "label"
    group: str | None = None
    model: str = Field(pattern=r"^transformers:.+$")
    max_length: int = Field(128, ge=2, le=100_000)
    split: SplitShares = SplitShares()
    baseline: Training | None = None

    @property
    def code(self) -> str:
        """Where the model's code is."""
        return f"{SOURCE}:AutoModel{TRAINED}"

    def places(self) -> list[str]:
        """Where table and model lie, from the config's folder."""
        return [self.data.partition(":")[2], self.model.partition(":")[2]]

    def build(self, root: Path, load: Load) -> Classification:
        """The task; relative paths start at root. Raises TaskError."""
        remarks, path, folder = Remarks(), *(root / place for place in self.places())
        tokenizer, settings = _opened(folder)
        table = read_table(path, self.data.partition(":")[0])
        texts, labels, names = _rows(self, table, path)
        head = find_head(settings, names, self.baseline is not None)
        labels = np.array([head.classes.index(name) for name in names])[labels]
        tokens = _tokens(tokenizer, texts, self.max_length, path, remarks)
        model = _read_model(folder, settings, head)
        _check_fits(model, tokens, self.max_length, folder)
        groups = None if self.group is None else plain(table[self.group])
        padding = int(tokenizer.pad_token_id)
        splits: dict[str, Any] = {
            name: Sentences([tokens[index] for index in part], torch.from_numpy(labels[part]), padding)
            for name, part in _parts(self.split, texts, labels, groups, remarks).items()
        }
        remarks.add(f"outputs are {', '.join(head.classes)} in this order", folder)
        if head.new:
            remarks.add(f"its classifier is made anew for {len(names)} classes, and trained first", folder)
        return TextClassification(
            lambda: copy.deepcopy(model),
            **splits,
            baseline=self.baseline or (USUAL if head.new else None),
            classes=head.classes,
            class_weights=self.weights_of(head.classes, splits["train"].labels.numpy()),
            notes=tuple(f"task.data: {text}" for text in remarks.lines()),
            preparation=_prepared(self, tokenizer),
            inputs=(
                f"input_ids (N, length): tokens by the tokenizer in {folder.name}, at most {self.max_length}, shorter "
                f"texts of a batch filled up with {padding} on the right",
                "attention_mask (N, length): 1 for tokens, 0 for what was filled up",
            ),
        )


@dataclass(frozen=True)
class TextClassification(Classification):
    """A classification whose model is one of transformers, which returns its logits by name."""

    output: ClassVar[str] = LOGITS
    learning_rate: ClassVar[float] = USUAL.learning_rate


class Sentences(Dataset[Any]):
    """Token sequences and their classes; several at once are filled up to the longest of them, on the right."""

    in_memory = True

    def __init__(self, tokens: Sequence[Sequence[int]], labels: Tensor, padding: int) -> None:
        self.lengths = torch.tensor([len(each) for each in tokens])
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.tokens = torch.tensor([token for each in tokens for token in each], dtype=torch.int32)
        self.labels, self.padding = labels, padding

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> dict[str, Tensor]:
        lengths, starts = self.lengths[index, None], self.starts[index, None]
        places = torch.arange(int(lengths.max()))
        real = places < lengths
        ids = self.tokens[(starts + places).clamp(max=len(self.tokens) - 1)].long()
        return {
            "input_ids": ids.masked_fill(~real, self.padding),
            "attention_mask": real.long(),
            "labels": self.labels[index],
        }


@dataclass(frozen=True)
class Head:
    """The classes of a model's outputs in their order, and whether its classifier is yet to be trained."""

    classes: tuple[str, ...]
    new: bool


def find_head(settings: Mapping[str, Any], names: tuple[str, ...], trains: bool) -> Head:
    """Which output of a model is which of a table's labels.

    settings: the model's config.json. names: the labels. trains: whether the model is to be trained anyway. Raises
    TaskError for a trained classifier of other labels, unless it is trained again.
    """
    trained = any(str(name).endswith(TRAINED) for name in settings.get("architectures") or [])
    named = {int(key): str(value) for key, value in (settings.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"}).items()}
    own = tuple(named[index] for index in sorted(named))
    if trained and set(names) <= set(own):
        return Head(own, new=False)
    counted = tuple(str(index) for index in range(len(own)))
    if trained and own == tuple(f"LABEL_{index}" for index in range(len(own))) and set(names) <= set(counted):
        return Head(counted, new=False)
    if trained and not trains:
        raise TaskError(
            f"task.model: its classifier knows {', '.join(own)}, the column of labels {', '.join(names)}: name them "
            "alike, or give a `baseline`, with which a new classifier is trained"
        )
    return Head(names, new=True)


def _opened(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The tokenizer of a folder, and what its config.json says. Raises TaskError."""
    try:
        import transformers
    except ImportError:
        raise TaskError("task.model: transformers is not installed: pip install 'autocompress[text]'") from None
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if not (folder / "config.json").is_file():
        raise TaskError(f"task.model: {folder}: has no config.json: name a folder that save_pretrained wrote")
    try:
        settings = json.loads((folder / "config.json").read_text())
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, padding_side="right"
        )
    except Exception as error:
        raise TaskError(f"task.model: {folder}: has no tokenizer that can be read: {one_line(error)}") from None
    if tokenizer.pad_token_id is None:
        raise TaskError(f"task.model: {folder}: its tokenizer has no pad_token: set one, and save it again")
    return tokenizer, settings


def _rows(
    config: TextClassificationConfig, table: Any, path: Path
) -> tuple[list[str], NDArray[np.int64], tuple[str, ...]]:
    """Texts, their classes from 0, and the names of these. Raises TaskError."""
    for key in ("text", "label", "group"):
        name = getattr(config, key)
        if name is not None and name not in table:
            raise TaskError(f"task.{key}: {path} has no column {name!r}: {suggest(name, table.columns)}")
        if name is not None:
            check_filled(table[name], path)
    if table[config.text].dtype.kind in "iufb":
        raise TaskError(f"task.text: {path}: column {config.text!r} holds numbers: name the column of texts")
    found, names = read_labels({config.label: plain(table[config.label])}, None, path, Remarks())
    return [str(text) for text in table[config.text]], found[config.label], names


def _tokens(tokenizer: Any, texts: list[str], most: int, path: Path, remarks: Remarks) -> list[list[int]]:
    whole = tokenizer(texts, truncation=False, add_special_tokens=True, verbose=False)["input_ids"]
    long = [index for index, each in enumerate(whole) if len(each) > most]
    if not long:
        return list(whole)
    remarks.add(f"{len(long)} of {len(texts)} texts have more than {most} tokens (`max_length`), and are cut", path)
    cut = tokenizer([texts[index] for index in long], truncation=True, max_length=most)["input_ids"]
    return [each if len(each) <= most else cut.pop(0) for each in whole]


def _read_model(folder: Path, settings: Mapping[str, Any], head: Head) -> nn.Module:
    """The model with its weights; those of a new classifier are the same at every reading. Raises TaskError."""
    import transformers

    if not any(folder.glob("*.safetensors")):
        raise TaskError(f"task.model: {folder}: has no *.safetensors: save it by save_pretrained, which writes them")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            extra = {"num_labels": len(head.classes), "ignore_mismatched_sizes": True} if head.new else {}
            model, found = transformers.AutoModelForSequenceClassification.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
                **extra,
            )
        except Exception as error:
            raise TaskError(f"task.model: {folder}: cannot be read: {one_line(error)}") from None
    core = f"{model.base_model_prefix}."
    lacking = sorted(name for name in found["missing_keys"] if not head.new or name.startswith(core))
    if lacking:
        raise TaskError(f"task.model: {folder}: its weights lack {lacking[0]!r} ({len(lacking)} in all): save it again")
    model.config.use_cache = False
    network: nn.Module = model.eval()
    return network


def _check_fits(model: Any, tokens: list[list[int]], most: int, folder: Path) -> None:
    """Raise TaskError for tokens and lengths that a model has no place for."""
    known = model.get_input_embeddings().num_embeddings
    largest = max(max(each, default=0) for each in tokens)
    if largest >= known:
        raise TaskError(
            f"task.model: {folder}: its tokenizer gives token {largest}, but the model has {known}: the tokenizer is "
            "another model's"
        )
    places = getattr(model.config, "max_position_embeddings", None)
    if places is not None and max(map(len, tokens)) > places:
        raise TaskError(f"task.max_length: {most}: the model takes at most {places} tokens: lower it")


def _parts(
    shares: SplitShares, texts: list[str], labels: NDArray[Any], groups: NDArray[Any] | None, remarks: Remarks
) -> dict[str, NDArray[np.int64]]:
    """Positions by split; a text that occurs more than once is in one of them alone."""
    if groups is not None:
        return divided(shares, labels, groups)
    _, first, member = np.unique(np.array(texts, dtype=object).astype(np.str_), return_index=True, return_inverse=True)
    again = len(texts) - len(first)
    if again:
        remarks.add("rows that repeat the text of another are in its split", f"{again} of {len(texts)}")
    parts = divided(shares, labels[first])
    return {name: np.flatnonzero(np.isin(member, part)) for name, part in parts.items()}
