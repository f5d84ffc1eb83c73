"""The tasks of this package: classification of arrays, whatever the model; data of all kinds without code."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.io import wavfile
from worded import save, sentences

from autocompress import Classification, Task, Training
from autocompress.tasks import load_task, refer
from autocompress.tasks.audio_classification import AudioClassificationConfig
from autocompress.tasks.control import ControlConfig
from autocompress.tasks.image_segmentation import ImageSegmentationConfig
from autocompress.tasks.images import ImageClassificationConfig
from autocompress.tasks.networks import PolicyMLP
from autocompress.tasks.recommendation import RecommendationConfig
from autocompress.tasks.tabular import TabularConfig
from autocompress.tasks.texts import TextClassificationConfig
from autocompress.tasks.time_series import TimeSeriesConfig
from autocompress.testing import MODELS, TaskContract, make_task, seeded


class TestClassification(TaskContract):
    @pytest.fixture(params=list(MODELS))
    def task(self, request: pytest.FixtureRequest) -> Task:
        return make_task(MODELS[request.param], baseline=Training())


class TestTrainedClassification(TaskContract):
    @pytest.fixture
    def task(self) -> Task:
        data = make_task(MODELS["plain"])
        arrays = [[part.numpy() for part in split] for split in (data.train, data.validation, data.test)]
        return Classification(lambda: seeded(MODELS["plain"]), *arrays, baseline=None)


class TestImageClassification(TaskContract):
    @pytest.fixture
    def task(self, tmp_path: Path) -> Task:
        images = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 3), dtype=np.uint8)
        np.savez(tmp_path / "images.npz", x=images, y=np.arange(40) % 4)
        given = {"kind": "image_classification", "model": "autocompress.testing.models:Plain", "data": "npz:images.npz"}
        return load_task(refer(ImageClassificationConfig.model_validate({**given, "input_size": 12}), tmp_path))


class TestImageSegmentation(TaskContract):
    @pytest.fixture(params=[None, 2])
    def task(self, request: pytest.FixtureRequest, tmp_path: Path) -> Task:
        chance = np.random.default_rng(0)
        for name, shape in (("images", (16, 16, 3)), ("masks", (16, 16))):
            (tmp_path / name).mkdir()
            for number in range(10):
                pixels = chance.integers(0, 256 if name == "images" else 3, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
        given = {"kind": "image_segmentation", "data": "folder:.", "input_size": 16, "ignore": request.param}
        return load_task(refer(ImageSegmentationConfig.model_validate(given), tmp_path))


class TestAudioClassification(TaskContract):
    @pytest.fixture
    def task(self, tmp_path: Path) -> Task:
        chance = np.random.default_rng(0)
        for number in range(20):
            place = tmp_path / ("low", "high")[number % 2] / f"{number}.wav"
            place.parent.mkdir(exist_ok=True)
            wavfile.write(place, 8000, chance.integers(-9000, 9000, 2000).astype(np.int16))
        given = {"kind": "audio_classification", "data": "folder:.", "sample_rate": 8000, "seconds": 0.25}
        return load_task(refer(AudioClassificationConfig.model_validate(given), tmp_path))


class TestTabular(TaskContract):
    @pytest.fixture(params=["classes", "numbers"])
    def task(self, request: pytest.FixtureRequest, tmp_path: Path) -> Task:
        chance = np.random.default_rng(0)
        table = pd.DataFrame({"size": chance.normal(size=40), "place": ["here", "there"] * 20, "y": np.arange(40) % 4})
        table.to_csv(tmp_path / "table.csv", index=False)
        given = {"kind": "tabular", "data": "csv:table.csv", "target": "y", "predicts": request.param}
        return load_task(refer(TabularConfig.model_validate(given), tmp_path))


class TestTimeSeries(TaskContract):
    @pytest.fixture(params=["cnn", "gru"])
    def task(self, request: pytest.FixtureRequest, tmp_path: Path) -> Task:
        x = np.random.default_rng(0).normal(size=(40, 2, 12)).astype(np.float32)
        np.savez(tmp_path / "windows.npz", x=x, y=np.arange(40) % 2)
        given = {"kind": "time_series", "data": "npz:windows.npz", "model": request.param}
        return load_task(refer(TimeSeriesConfig.model_validate(given), tmp_path))


class TestTexts(TaskContract):
    @pytest.fixture
    def task(self, tmp_path: Path) -> Task:
        sentences(40).to_csv(tmp_path / "texts.csv", index=False)
        save(tmp_path / "model")
        given = {"kind": "text_classification", "data": "csv:texts.csv", "model": "transformers:model"}
        return load_task(refer(TextClassificationConfig.model_validate(given), tmp_path))


class TestControl(TaskContract):
    @pytest.fixture
    def task(self, tmp_path: Path) -> Task:
        torch.manual_seed(0)
        save_file(PolicyMLP(4, 2).state_dict(), tmp_path / "policy.safetensors")
        given = {"kind": "control", "environment": "CartPole-v1", "weights": "policy.safetensors", "episodes": 3}
        return load_task(refer(ControlConfig.model_validate(given), tmp_path))


class TestRecommendation(TaskContract):
    @pytest.fixture
    def task(self, tmp_path: Path) -> Task:
        chance = np.random.default_rng(0)
        rows = [(user, item) for user in range(12) for item in chance.choice(30, 6, replace=False)]
        pd.DataFrame(rows, columns=["user", "item"]).to_csv(tmp_path / "taken.csv", index=False)
        given = {"kind": "recommendation", "data": "csv:taken.csv", "candidates": 10, "k": 3}
        return load_task(refer(RecommendationConfig.model_validate(given), tmp_path))
