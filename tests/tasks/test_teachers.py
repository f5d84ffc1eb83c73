"""Networks that a config may name as its model, and that lightweight ones learn from."""

from pathlib import Path

import numpy as np
import pytest
import torch

from autocompress.tasks.images import ImageClassificationConfig
from autocompress.tasks.loading import load_callable
from autocompress.tasks.networks import CifarResNet, resnet20, resnet56
from autocompress.tasks.pretrained import check_model


# He et al. (2016), Table 6: millions of parameters, of the form whose shortcuts have none. Ours have two 1x1
# convolutions with normalizations: 16 * 32 + 2 * 32 and 32 * 64 + 2 * 64.
@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_cifar_resnets_have_the_papers_parameters(depth: int, millions: float) -> None:
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    found = sum(parameter.numel() for parameter in CifarResNet(depth).parameters()) - shortcuts
    assert round(found / 1e6, 2) == millions


@pytest.mark.parametrize(("name", "depth"), [("resnet20", 20), ("resnet56", 56)])
def test_a_config_names_a_cifar_resnet_as_its_model(name: str, depth: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (60, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "data.npz", x=images, y=np.arange(60) % 3)
    config = ImageClassificationConfig(
        kind="image_classification", model=f"autocompress.tasks.networks:{name}", data="npz:data.npz"
    )
    model = config.build(tmp_path, load_callable).model()
    assert isinstance(model, CifarResNet)
    assert 2 * 3 * ((depth - 2) // 6) == 2 * len(model.blocks)  # convolutions in blocks, two each
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    assert sum(p.numel() for p in resnet56().parameters()) > 3 * sum(p.numel() for p in resnet20().parameters())


@pytest.mark.parametrize(
    "name", ["alexnet", "vgg11", "vgg16_bn", "resnet18", "resnet50", "densenet121", "googlenet", "inception_v3"]
)
def test_torchvision_has_the_other_teachers(name: str) -> None:
    check_model("torchvision", name)
