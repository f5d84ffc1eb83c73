"""Measures of a classifier beside its accuracy, each a mean over classes that counts all of them alike."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TaskError

MOST_CLASSES = 100  # whose curves are drawn: each sorts all examples


def classification_metrics(output: NDArray[Any], target: NDArray[Any]) -> dict[str, float]:
    """Accuracy, and the means over classes of precision, recall, F1 and the area under the ROC.

    output: logits (N, classes); target: classes (N,). A class counts when it is a target or was named; a precision or
    recall of nothing is 0. The area is of each class's softmax against all others (Fawcett, 2006, section 9.2), for up
    to MOST_CLASSES; it is left out where there is but one class in the targets. Raises TaskError for a target that is
    no class of the outputs.
    """
    classes, named = output.shape[1], output.argmax(axis=1)
    odd = target[(target < 0) | (target >= classes)]
    if len(odd):
        raise TaskError(
            f"targets hold class {odd[0]}, and outputs are of {classes}: classes go from 0 to {classes - 1}"
        )
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
        with np.errstate(invalid="ignore"):  # of logits that are no finite numbers
            areas = [_area(scores, target == label) for label, scores in _scores(output, known)]
        metrics["auroc"] = float(np.mean(areas))
    return metrics


def _scores(output: NDArray[Any], known: NDArray[Any]) -> list[tuple[int, NDArray[Any]]]:
    """Each known class with its share of the softmax; of two classes, the second with its logit less the other's."""
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
