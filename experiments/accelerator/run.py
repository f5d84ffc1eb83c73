"""How fast does the training loop train, and do baseline, techniques and a search run where it trains?

Examples a second of autocompress' loop against a minimal one, in turns within one run, from memory and from JPEG files,
and with distillation against without; then a baseline, three techniques and a short search. Writes DEVICE.csv beside
this file; under ten minutes on a GPU.

Usage: python experiments/accelerator/run.py [--device auto|cpu|cuda|mps] [--repeats 5] [--share 1] [--quick]
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import models

from autocompress.config import Train
from autocompress.data import Batch
from autocompress.tasks import Classification, refer
from autocompress.techniques import Context
from autocompress.techniques.teacher import blended
from autocompress.training import Training, device_of, fit, training_on
from autocompress.trial.baseline import make_baseline
from autocompress.trial.trial import TrialSpec, prepare

HERE = Path(__file__).parent
LENET = HERE.parent / "mnist5k_lenet"
sys.path.insert(0, str(LENET))

from task import LeNet5  # noqa: E402  the network of that example

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "LeNet-5": (LeNet5, (1, 28, 28), 4096),
    "ResNet-18, 64x64": (lambda: models.resnet18(num_classes=10), (3, 64, 64), 256),
    "MobileNetV3-small, 64x64": (lambda: models.mobilenet_v3_small(num_classes=10), (3, 64, 64), 512),
}
STEPS = {
    "channel_pruning": [{"technique": "channel_pruning", "ratio": 0.5}, {"technique": "finetune", "epochs": 1}],
    "svd": [{"technique": "svd"}, {"technique": "distill", "epochs": 1}],
    "weight_clustering": [{"technique": "weight_clustering", "bits": 4}, {"technique": "finetune", "epochs": 1}],
}


class Files(Dataset[Any]):
    """Images (3, size, size) of JPEG files of noise, decoded when they are read."""

    def __init__(self, folder: Path, count: int, size: int) -> None:
        self.size, self.paths = size, [folder / f"{index}.jpg" for index in range(count)]
        chance = np.random.default_rng(0)
        for path in self.paths:
            coarse = chance.integers(0, 255, (20, 20, 3), np.uint8)
            Image.fromarray(coarse).resize((160, 160)).save(path, quality=90)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.paths[index]) as image:
            pixels = np.asarray(image.convert("RGB").resize((self.size, self.size)), np.float32)
        return torch.from_numpy(pixels).permute(2, 0, 1) / 255, index % 10


def minimal(model: nn.Module, data: Dataset[Any], device: torch.device, size: int, workers: int) -> None:
    """An epoch of the loop that everybody writes."""
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for x, y in shuffled(data, size, workers):
        optimizer.zero_grad(set_to_none=True)
        inputs, targets = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        nn.functional.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def shuffled(data: Dataset[Any], size: int, workers: int) -> Iterable[Any]:
    """The batches of an epoch: of tensors at once, of files by torch's loader."""
    if not isinstance(data, TensorDataset):
        return DataLoader(data, size, shuffle=True, num_workers=workers)
    return (data[index] for index in torch.randperm(len(data)).split(size))


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """How long something takes, all that the device has to do for it included."""
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def loss(output: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy."""
    return nn.functional.cross_entropy(output, batch.targets)


def rates(make: Callable[[], nn.Module], data: Any, how: Train) -> tuple[float, float]:
    """Examples a second of this loop and of the minimal one, each on a new model.

    Ours is the second of two epochs, as after the last one it renews statistics, which a minimal loop leaves out.
    """
    device, settings, model = device_of(how), Training(epochs=1), make()
    plain = seconds(lambda: minimal(make(), data, device, settings.batch_size, how.loader_workers), device)
    with training_on(how):
        one, two = (
            seconds(lambda epochs=count: fit(model, data, loss, Training(epochs=epochs), 0), device)  # type: ignore[misc]
            for count in (1, 2)
        )
    return len(data) / (two - one), len(data) / plain


def paired(what: str, work: Callable[[], tuple[float, float]], repeats: int) -> dict[str, Any]:
    """Two rates, taken in turns, and the median ratio of pairs; the first pair warms up."""
    pairs = [work() for _ in range(repeats + 1)][1:]
    first, second = (statistics.median(values) for values in zip(*pairs, strict=True))
    ratio = statistics.median(own / other for own, other in pairs)
    return {"what": what, "examples_a_second": first, "minimal": second, "ratio": ratio}


def loops(how: Train, repeats: int, share: float) -> Iterator[dict[str, Any]]:
    """Examples a second of both loops, and the median ratio of pairs."""
    device = device_of(how)
    for name, (make, shape, count) in NETWORKS.items():
        if device.type != "cpu":
            count *= 16
        count = max(64, int(count * share))
        data = TensorDataset(torch.randn(count, *shape), torch.randint(0, 10, (count,)))
        yield paired(f"loop, {name}", lambda make=make, data=data: rates(make, data, how), repeats)  # type: ignore[misc]


def forms(how: Train, repeats: int, share: float) -> Iterator[dict[str, Any]]:
    """Examples a second in bfloat16, with channels last and with both, against neither."""
    several: list[dict[str, Any]] = [{"precision": "bf16"}, {"channels_last": True}]
    several.append(several[0] | several[1])
    for name, (make, shape, count) in NETWORKS.items():
        count = max(64, int(count * share)) * (1 if device_of(how).type == "cpu" else 16)
        data = TensorDataset(torch.randn(count, *shape), torch.randint(0, 10, (count,)))
        for given in several:
            other = how.model_copy(update=given)

            def both(make: Any = make, data: Any = data, other: Train = other) -> tuple[float, float]:
                return rates(make, data, other)[0], rates(make, data, how)[0]

            named = " and ".join({"precision": "bf16", "channels_last": "channels last"}[key] for key in given)
            yield paired(f"{named} against neither, {name}", both, repeats)


def from_files(how: Train, repeats: int, share: float) -> Iterator[dict[str, Any]]:
    """Examples a second of both loops where images are decoded from JPEG files by two workers."""
    name = "MobileNetV3-small, 64x64"
    with tempfile.TemporaryDirectory() as folder:
        data = Files(Path(folder), max(64, int(1024 * share)), 64)
        files = how.model_copy(update={"loader_workers": 2})
        yield paired(f"loop, {name}, JPEG files", lambda: rates(NETWORKS[name][0], data, files), repeats)


def distilling(how: Train, repeats: int, share: float) -> Iterator[dict[str, Any]]:
    """Examples a second with distillation, the teacher's outputs cached, against those without it."""
    device = device_of(how)
    for name in ("LeNet-5", "MobileNetV3-small, 64x64"):
        make, shape, count = NETWORKS[name]
        count = max(64, int(count * share))
        data = torch.randn(count, *shape), torch.randint(0, 10, (count,))
        context = Context(Classification(make, data, data, data), make().eval(), 0)

        def both(make: Any = make, context: Context = context, count: int = count) -> tuple[float, float]:
            with training_on(how):
                distilled = blended(context, 0.7, 4.0)
                found = []
                for each in (distilled, loss):
                    one, two = (
                        seconds(lambda n=n, f=each: fit(make(), context.train, f, Training(epochs=n), 0), device)  # type: ignore[misc]
                        for n in (1, 2)
                    )
                    found.append(count / (two - one))
            return found[0], found[1]

        yield paired(f"distillation against none, {name}", both, repeats)


def stages(how: Train) -> Iterator[dict[str, Any]]:
    """Seconds of a baseline and of three techniques trained there, or why they failed."""
    reference = refer("task.py:lenet_mnist5k", LENET)
    began = time.perf_counter()
    baseline = make_baseline(reference, 0, how=how)
    yield {"what": "baseline, LeNet-5", "seconds": time.perf_counter() - began,
           "accuracy": baseline.metrics["accuracy"]}  # fmt: skip
    for name, steps in STEPS.items():
        began = time.perf_counter()
        made: Any = prepare(TrialSpec(0, {"version": 1, "steps": steps}, reference, 0, how=how), baseline)
        accuracy = getattr(made, "metrics", {}).get("accuracy")
        row = {"what": name, "seconds": time.perf_counter() - began, "accuracy": accuracy}
        yield row if accuracy is not None else {**row, "failed": getattr(made, "reason", str(made))}


def search(how: Train, trials: int) -> Iterator[dict[str, Any]]:
    """Seconds of a search of a few trials, and its members of the front."""
    config = yaml.safe_load((LENET / "search.yaml").read_text())
    config["search"] = {"trials": trials, "workers": 1}
    config["train"] = how.model_dump()
    config["task"] = "task.py:lenet_mnist5k"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "task.py").write_text((LENET / "task.py").read_text())
        (Path(folder) / "search.yaml").write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "autocompress", "search", "search.yaml", "--executor", "inline"]
        began = time.perf_counter()
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        row = {"what": f"search of {trials} trials", "seconds": time.perf_counter() - began}
        yield row if ended.returncode == 0 else {**row, "failed": ended.stderr[-300:]}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--share", type=float, default=1.0, help="of the examples of an epoch")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, and no search")
    given = parser.parse_args()
    device = device_of(Train(device=given.device)).type
    plain = Train(device=device)
    extent = (1, 0.1) if given.quick else (given.repeats, given.share)
    works = loops, from_files, distilling, forms
    rows: list[dict[str, Any]] = []
    for row in itertools.chain(
        *(work(plain, *extent) for work in works), *(() if given.quick else (stages(plain), search(plain, 6)))
    ):
        rows.append(row)
        table = pd.DataFrame(rows).assign(device=torch.cuda.get_device_name() if device == "cuda" else device)
        print(table[-1:].to_string(index=False, header=len(rows) == 1, float_format="%.4g"), flush=True)
        if not given.quick:
            table.to_csv(HERE / f"{device}.csv", index=False, float_format="%.4g")


if __name__ == "__main__":
    torch.set_num_threads(1 if not torch.cuda.is_available() else torch.get_num_threads())
    main()
