"""A tiny transformer with its tokenizer, as a folder, and a table of sentences for it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers

WORDS = ["good", "fine", "great", "bad", "poor", "awful", "the", "a", "film", "plot", "was", "very", "and"]
NAMES = ["positive", "negative"]  # not in the order of the alphabet


def tokenizer(words: list[str] = WORDS) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    own = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", *words])}, "[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]"
    )


def save(folder: Path, headless: bool = False, words: list[str] = WORDS, **settings: Any) -> Path:
    """A folder of a tiny model and its tokenizer, as save_pretrained writes it."""
    torch.manual_seed(0)
    given = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}, **settings}
    config = transformers.DistilBertConfig(
        vocab_size=len(WORDS) + 3, dim=16, hidden_dim=32, n_layers=2, n_heads=2, max_position_embeddings=24, **given
    )
    kind = transformers.DistilBertModel if headless else transformers.DistilBertForSequenceClassification
    kind(config).save_pretrained(folder)
    tokenizer(words).save_pretrained(folder)
    return folder


def sentences(count: int = 60) -> pd.DataFrame:
    chance = np.random.default_rng(0)
    rows = []
    for index in range(count):
        label = NAMES[index % 2]
        told = WORDS[:3] if label == "positive" else WORDS[3:6]
        rest = chance.choice(WORDS[6:], int(chance.integers(1, 12))).tolist()
        rows.append((" ".join([*rest, str(chance.choice(told))]), label))
    return pd.DataFrame(rows, columns=["text", "label"])
