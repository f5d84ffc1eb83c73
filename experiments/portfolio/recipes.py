"""The recipes among which a portfolio is chosen: what is cut and trained, then what may follow it, mild to strong."""

from typing import Any

Step = dict[str, Any]
Steps = list[Step]


def cut(share: float) -> Step:
    """Channels pruned by the Taylor criterion, the same share in each layer."""
    return {"technique": "channel_pruning", "ratio": share, "importance": "taylor", "scope": "layer"}


def ranks(energy: float) -> Step:
    """Layers as two thinner ones that keep this share of the energy."""
    return {"technique": "svd", "energy": energy, "variant": "channel"}


def zero(share: float) -> Step:
    """Weights pruned wherever they are smallest."""
    return {"technique": "weight_pruning", "ratio": share}


def share(bits: int) -> Step:
    """Weights that share as many values as bits can count."""
    return {"technique": "weight_clustering", "bits": bits}


def codes(bits: int, block: int) -> Step:
    """Blocks of weights that share as many codes as bits can count."""
    return {"technique": "product_quantization", "bits": bits, "block": block}


def rounded(step: float) -> Step:
    """Weights on multiples of a wide step, whose errors others make up for."""
    return {"technique": "gptq", "step": step}


def distil(epochs: int) -> Step:
    """Training on the uncompressed model's outputs."""
    return {"technique": "distill", "epochs": epochs, "learning_rate": 0.004}


def tune(epochs: int) -> Step:
    """Training on the targets alone."""
    return {"technique": "finetune", "epochs": epochs, "learning_rate": 0.002}


def bits(count: int) -> Step:
    """Weights on a grid of few bits."""
    return {"technique": "low_bit", "bits": count}


def mixed(count: float) -> Step:
    """Weights in as many bits on average, more where they matter."""
    return {"technique": "mixed_precision", "bits": count}


INTEGERS: Step = {"technique": "int8_static"}
HALF: Step = {"technique": "float16"}
CUT = [cut(0.7), distil(20)]
CUT_TWICE = [*CUT, cut(0.5), distil(20)]
CUT_HARDER = [*CUT, cut(0.6), distil(28)]

# Each trunk with what may follow it: the trunk is trained once. The cheapest come first, and win where recipes tie.
GRAMMAR: list[tuple[Steps, list[Steps]]] = [
    ([], [[HALF], [INTEGERS], [bits(8)], [bits(6)], [bits(5)], [bits(4)], [mixed(4)], [mixed(3)], [share(5)],
          [rounded(0.5)], [rounded(1.0)], [rounded(2.0)], [rounded(4.0)]]),
    ([zero(0.5)], [[bits(6)], [share(4)]]),
    ([ranks(0.9)], [[HALF], [INTEGERS], [bits(6)]]),
    ([cut(0.3), tune(8)], [[HALF], [INTEGERS], [bits(6)], [rounded(0.5)]]),
    ([ranks(0.7), tune(8)], [[HALF], [INTEGERS], [bits(6)]]),
    ([ranks(0.5), distil(16)], [[INTEGERS], [bits(5)]]),
    ([cut(0.5), distil(12)], [[], [INTEGERS], [bits(6)], [bits(4)], [mixed(3)], [codes(4, 2), distil(12)],
                              [rounded(0.5)], [rounded(1.5)], [rounded(2.0), distil(12)], [rounded(3.0), distil(16)]]),
    ([cut(0.7), distil(16)], [[INTEGERS], [bits(6)], [bits(4)], [share(4), distil(8)], [codes(4, 2), distil(8)]]),
    ([cut(0.85), distil(24)], [[INTEGERS], [bits(6)], [mixed(4)]]),
    ([cut(0.5), ranks(0.7), distil(16)], [[INTEGERS], [bits(5)]]),
    ([cut(0.7), ranks(0.7), distil(16)], [[bits(6)]]),
    ([share(4), distil(16)], [[]]),
    ([share(3), distil(16)], [[]]),
    ([codes(4, 2), distil(16)], [[]]),
    ([codes(8, 4), distil(16)], [[]]),
    ([rounded(4.0), distil(16)], [[]]),
    ([zero(0.8), distil(12)], [[bits(6)], [share(4)], [INTEGERS]]),
    ([zero(0.9), distil(20)], [[bits(5)], [share(4), distil(16)], [share(3), distil(16)]]),
    ([zero(0.95), distil(28)], [[share(4), distil(16)]]),
    ([cut(0.3), distil(12), zero(0.8), distil(16)], [[share(4), distil(12)]]),
    ([cut(0.5), distil(12), cut(0.5), distil(16)], [[INTEGERS], [bits(5)], [zero(0.5), distil(12), share(4)]]),
    (CUT_TWICE, [[INTEGERS], [bits(5)], [share(3), distil(16)], [codes(4, 2), distil(16)]]),
    ([*CUT_TWICE, zero(0.7), distil(20)], [[share(3), distil(16)]]),
    (CUT_HARDER, [[bits(6)], [codes(4, 2), distil(28)], [rounded(2.0), distil(28)]]),
    ([*CUT_HARDER, zero(0.65), distil(28)], [[share(3), distil(16)]]),
]  # fmt: skip


def written(step: Step) -> str:
    """A step in plain words."""
    match step:
        case {"technique": "channel_pruning", "ratio": part}:
            return f"cut {part:.0%} of the channels"
        case {"technique": "svd", "energy": part}:
            return f"ranks of {part:.0%} of the energy"
        case {"technique": "weight_pruning", "ratio": part}:
            return f"{part:.0%} zeros"
        case {"technique": "weight_clustering", "bits": count}:
            return f"{2**count} shared values"
        case {"technique": "product_quantization", "bits": count, "block": length}:
            return f"{2**count} codes of {length}"
        case {"technique": "gptq", "step": step}:
            return f"steps of {step:g} deviations"
        case {"technique": "distill", "epochs": epochs}:
            return f"distil {epochs}"
        case {"technique": "finetune", "epochs": epochs}:
            return f"tune {epochs}"
        case {"technique": "low_bit", "bits": count}:
            return f"{count} bits"
        case {"technique": "mixed_precision", "bits": count}:
            return f"{count} bits on average"
        case {"technique": "int8_static"}:
            return "integers"
        case _:
            return "half precision"


def named(steps: Steps) -> str:
    """A recipe in plain words."""
    return ", ".join(written(step) for step in steps)


RECIPES = {named([*trunk, *rest]): [*trunk, *rest] for trunk, leaves in GRAMMAR for rest in leaves}
# What was written by hand before there were measurements, to compare with.
BY_HAND = [
    named(steps)
    for steps in (
        [*CUT_TWICE, zero(0.7), distil(20), share(3), distil(16)],
        [cut(0.7), distil(16), bits(4)],
        [zero(0.9), distil(20), share(4), distil(16)],
        [cut(0.5), distil(12), INTEGERS],
        [cut(0.7), ranks(0.7), distil(16), bits(6)],
        [*CUT_HARDER, zero(0.65), distil(28), share(3), distil(16)],
        [ranks(0.7), tune(8), HALF],
        [cut(0.3), tune(8), INTEGERS],
    )
]
