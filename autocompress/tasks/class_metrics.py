"""Measures of a classifier beside its accuracy, each a mean over classes that counts all of them alike."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_CLASSES = 100  # whose curves are drawn: each sorts all examples


def classification_metrics(output: NDArray[Any], target: NDArray[Any]) -> dict[str, float]:
    """Accuracy, and the means over classes of precision, recall, F1 and the area under the ROC.

    output: logits (N, classes); target: classes (N,). A class counts when it is a target or was named; a precision or
    recall of nothing is 0. The area is of each class's softmax against all others (Fawcett, 2006, section 9.2), for up
    to MOST_CLASSES; it is left out where there is but one class in the targets.
    """
    classes, named = output.shape[1], output.argmax(axis=1)
    right = np.bincount(target[named == target], minlength=classes)
    wanted, found = np.bincount(target, minlength=classes), np.bincount(named, minlength=classes)
    there = (wanted + found) > 0
    precision = (right / np.maximum(found, 1))[there]
    recall = (right / np.maximum(wanted, 1))[there]
    f1 = (2 * right / np.maximum(wanted + found, 1))[there]
    means = {"precision": precision, "recall": recall, "f1": f1}
    metrics = {"accuracy": float(np.mean(named == target))}
    metrics |= {name: float(values.mean()) for name, values in means.items()}
    known = np.flatnonzero(wanted)
    if len(known) >= 2 and classes <= MOST_CLASSES:
        metrics["auroc"] = float(np.mean([_area(scores, target == label) for label, scores in _scores(output, known)]))
    return metrics


def _scores(output: NDArray[Any], known: NDArray[Any]) -> list[tuple[int, NDArray[Any]]]:
    """Logarithms of each known class's share of the softmax against the rest of it, which order as the share does."""
    logits = output.astype(np.float64)
    if logits.shape[1] == 2:
        return [(1, logits[:, 1] - logits[:, 0])]
    top = logits.max(axis=1, keepdims=True)
    shares = np.exp(logits - top)
    shares /= shares.sum(axis=1, keepdims=True)
    return [(int(label), shares[:, label]) for label in known]


def _area(scores: NDArray[Any], positive: NDArray[np.bool_]) -> float:
    """The share of pairs of a positive and a negative in which the positive scores more, ties counting half."""
    negative = np.sort(scores[~positive])
    below = np.searchsorted(negative, scores[positive], "left") + np.searchsorted(negative, scores[positive], "right")
    return float(below.mean() / (2 * len(negative)))
