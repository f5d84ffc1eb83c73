"""Sentences of documentation and the library that each is from, and a small transformer that has read none of them.

They are first paragraphs of docstrings in the installed numpy, scipy, pandas, scikit-learn and torch, under BSD
licences, without the libraries' own names. Their files are parsed, not run.

Usage: python experiments/domains/texts_data.py FOLDER
"""

import ast
import random
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast

LIBRARIES = ("numpy", "pandas", "scipy", "sklearn", "torch")
EACH = 400
NAMES = re.compile(
    r"\b(numpy|np|pandas|pd|scipy|scikit-learn|sklearn|py)?torch\b|\b(numpy|pandas|scipy|sklearn|np|pd)\b", re.I
)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]"]


def paragraphs(library: str) -> list[str]:
    """The different first paragraphs of a library's docstrings, in the order of its files."""
    spec = find_spec(library)
    assert spec is not None
    assert spec.origin is not None
    found: dict[str, None] = {}
    for path in sorted(Path(spec.origin).parent.rglob("*.py")):
        if "test" in str(path.relative_to(Path(spec.origin).parent)):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
                first = " ".join(NAMES.sub(" ", text.split("\n\n")[0]).split())
                if 40 <= len(first) <= 300:
                    found[first] = None
    return list(found)


def make_table(folder: Path) -> pd.DataFrame:
    """As many sentences of each library, written to texts.csv."""
    chance = random.Random(0)
    texts = {name: paragraphs(name) for name in LIBRARIES}
    rows = [(text, name) for name in LIBRARIES for text in chance.sample(texts[name], min(EACH, len(texts[name])))]
    table = pd.DataFrame(rows, columns=["text", "label"]).drop_duplicates("text", keep=False)
    table.to_csv(folder / "texts.csv", index=False)
    return table


def make_model(folder: Path, texts: list[str]) -> None:
    """A DistilBERT of two layers with random weights, and a tokenizer of 4,000 pieces of words."""
    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=4000, special_tokens=SPECIAL))
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", pieces.token_to_id("[CLS]"))]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=pieces, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", model_max_length=64
    ).save_pretrained(folder)
    torch.manual_seed(0)
    settings = DistilBertConfig(
        vocab_size=pieces.get_vocab_size(), dim=128, hidden_dim=512, n_layers=2, n_heads=4, max_position_embeddings=64
    )
    DistilBertModel(settings).save_pretrained(folder)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    made = make_table(place)
    make_model(place / "transformer", list(made["text"]))
    print(f"{len(made)} texts of {made['label'].nunique()} libraries, {made['label'].value_counts().to_dict()}")
