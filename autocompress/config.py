"""The search config: what a YAML file may say, checked before anything runs."""

import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from .documents import Document, read_yaml, validate
from .errors import ConfigError, suggest
from .outcome import Limit, Metrics
from .recipe import digest
from .urls import checked_url, is_server, same_database, shown

SIZES = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
MILLISECONDS = {"ns": 1e-6, "us": 1e-3, "ms": 1, "s": 1e3}
DURATIONS: dict[str, float] = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
SAMPLERS = ("auto", "tpe", "nsga2", "gp", "random")
# What every candidate is measured by, and whether less is better; a task's own metrics are better when higher.
MEASURED = {
    "size_bytes": True,
    "params": True,
    "nonzero_params": True,
    "latency_ms": True,
    "speedup": False,
    "compression_ratio": False,
    "space_saving": False,
}
# What comes of timing a file beside latency and speed-up.
TIMED = (
    *("latency_ms_low", "latency_ms_high", "latency_ms_p90", "speedup_low", "speedup_high"),
    *("aa_ratio", "measured_alone"),
)
# Limits that end so are counted down from the baseline's metric, and less of them is better.
DROP = "_drop"
CALL = "autocompress.search()"  # stands for the config's file where a program gave its entries
LINK = r"https?://[^\s<>()\"'@]{1,300}"  # an address without a password that stands safely in Markdown
Names = Collection[str]


def less_is_better(name: str, lower: Names = ()) -> bool:
    """Whether a metric is better when it is lower; `lower` are the task's own metrics that are."""
    return MEASURED.get(name, name in lower)


FOLDERS = {
    name: next(
        (folder for folder in (Path(__file__).parent / name, Path(__file__).parents[1] / name) if folder.is_dir()),
        Path(__file__).parent / name,
    )
    for name in ("search_spaces", "experiments")
}


def quantity(units: dict[str, float], example: str) -> Callable[[Any], Any]:
    """A reader of numbers with a unit, such as `60 KB`; raises ValueError for an unknown unit."""

    def read(value: Any) -> Any:
        """The number in the smallest unit; raises ValueError that says what to write."""
        if not isinstance(value, str):
            raise ValueError(f"{value!r}: needs a unit; write for example {example!r}")
        match = re.fullmatch(r"\s*([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([A-Za-z]+)\s*", value)
        if match is None:
            raise ValueError(f"{value!r}: is no number with a unit; write for example {example!r}")
        number, unit = match.groups()
        if unit.lower() not in units:
            raise ValueError(f"{value!r}: unknown unit {unit!r}; known: {', '.join(units)}")
        if not float(number) > 0:
            raise ValueError(f"{value!r}: write a number greater than 0")
        return float(number) * units[unit.lower()]

    return read


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(quantity(SIZES, "60 KB"))]
Latency = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(quantity(MILLISECONDS, "0.2 ms"))]
Duration = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(quantity(DURATIONS, "10m"))]


class Target(_Strict):
    """Where the artifact will run: threads are those of the processor. resource names a Ray resource of such nodes."""

    runtime: Literal["onnxruntime-cpu", "onnxruntime-cuda", "openvino"] = "onnxruntime-cpu"
    threads: int = Field(1, ge=1, le=256)
    batch_size: int = Field(1, ge=1, le=4096)
    resource: str | None = None


ONE_THREAD = Target()  # the usual one


class Train(_Strict):
    """Where and how baselines and trials train; they are measured on the target all the same.

    device `auto` is an accelerator where there is one. precision is that of forward and backward passes; weights stay
    in 32 bits. gpus_per_trial is what Ray gives a trial on cuda, a share where several train on one. loader_workers
    read data that is not held in memory, in processes of their own.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    gpus_per_trial: Annotated[float, Field(gt=0, le=16)] = 1.0
    loader_workers: int = Field(0, ge=0, le=64)
    channels_last: bool = False
    compile: bool = False

    @model_validator(mode="after")
    def _has_fp16(self) -> "Train":
        if self.precision == "fp16" and self.device in ("cpu", "mps"):
            raise ValueError(f"fp16 trains on cuda alone, where losses are scaled: write bf16 on {self.device}")
        return self


class Bound(_Strict):
    """A limit on a metric of the task's own, from above or from below."""

    at_most: Annotated[float, Field(allow_inf_nan=False)] | None = None
    at_least: Annotated[float, Field(allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _one(self) -> "Bound":
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("give one of at_most and at_least")
        return self


class Budget(_Strict):
    """Hard limits; every one that is set must hold.

    `metrics` bounds a task's own metrics by name: a number from the side that is worse, or {at_most: N} or
    {at_least: N}.
    """

    size: Size | None = None
    size_bytes: Positive | None = None
    compression_ratio: Positive | None = None
    params: Positive | None = None
    latency: Latency | None = None
    latency_ms: Positive | None = None
    speedup: Positive | None = None
    accuracy: Annotated[float, Field(gt=0, le=1)] | None = None
    accuracy_drop: Annotated[float, Field(ge=0, lt=1)] | None = None
    metrics: dict[str, float | Bound] = {}

    @model_validator(mode="after")
    def _one_spelling(self) -> "Budget":
        for first, second in (("size", "size_bytes"), ("latency", "latency_ms")):
            if getattr(self, first) is not None and getattr(self, second) is not None:
                raise ValueError(f"{first} and {second} set the same limit: keep one")
        return self

    def limits(self, baseline: Metrics, lower: Names = ()) -> tuple[Limit, ...]:
        """The limits as bounds on metrics, drops counted from the baseline. Raises ConfigError for unknown metrics.

        lower: the task's own metrics of which less is better.
        """
        rows: list[tuple[str, Literal["at_most", "at_least"], float | None, str]] = [
            ("size_bytes", "at_most", self.size or self.size_bytes, "size"),
            ("compression_ratio", "at_least", self.compression_ratio, "compression_ratio"),
            ("params", "at_most", self.params, "params"),
            ("latency_ms", "at_most", self.latency or self.latency_ms, "latency"),
            ("speedup", "at_least", self.speedup, "speedup"),
            ("accuracy", "at_least", self.accuracy, "accuracy"),
        ]
        if self.accuracy_drop is not None:
            rows.append(("accuracy", "at_least", baseline.get("accuracy", 0.0) - self.accuracy_drop, "accuracy_drop"))
        rows += [(name, *_bound(name, bound, lower), name) for name, bound in self.metrics.items()]
        limits = tuple(Limit(metric, sense, bound, label) for metric, sense, bound, label in rows if bound is not None)
        for limit in limits:
            if limit.metric not in baseline:
                known = suggest(limit.metric, baseline)
                key = f"metrics.{limit.label}" if limit.label in self.metrics else limit.label
                raise ConfigError(f"budget.{key}: the task does not measure {limit.metric!r}; {known}")
        return limits


def _bound(name: str, bound: float | Bound, lower: Names) -> tuple[Literal["at_most", "at_least"], float]:
    if isinstance(bound, Bound):
        return ("at_least", bound.at_least) if bound.at_most is None else ("at_most", bound.at_most)  # type: ignore[return-value]
    return ("at_most" if less_is_better(name, lower) else "at_least"), bound


class SearchSettings(_Strict):
    """How long and how a study searches. retries counts further attempts for a trial whose worker was lost.

    until is a goal, such as `size <= 20 KB and accuracy_drop <= 0.01`, which ends the search once it is reached. rungs
    says whether trainings end early that come to nothing, by how others went on from where they stand.
    """

    trials: int = Field(40, ge=1, le=100_000)
    timeout: Duration | None = None
    until: str | None = None
    cold: bool = False  # whether to learn nothing from earlier studies in the storage
    rungs: bool = True
    trial_timeout: Duration = 3600.0
    sampler: Literal["auto", "tpe", "nsga2", "gp", "random"] = "auto"
    seed: int = Field(0, ge=0, lt=2**31)
    workers: int = Field(2, ge=1, le=4096)
    retries: int = Field(1, ge=0, le=100)

    @field_validator("sampler", mode="before")
    @classmethod
    def _known_sampler(cls, value: Any) -> Any:
        if value not in SAMPLERS:
            raise ValueError(f"unknown sampler {value!r}; {suggest(str(value), SAMPLERS)}")
        return value


class Tracking(_Strict):
    """Where MLflow keeps the runs; the experiment is the study's name unless it says otherwise.

    registers, which is written `register`, says whether the front's models are registered under the study's name.
    server is the address of the service that runs the search, to whose page a description in MLflow leads.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    uri: str = "sqlite:///mlflow.db"
    experiment: str | None = None
    registers: bool = Field(False, alias="register")
    server: str | None = Field(None, pattern=f"^{LINK}$")


class RuntimeEnv(_Strict):
    """What Ray runs workers in: a container of an image, where the cluster's nodes have podman.

    Ray sends no code into containers: the image holds Python, Ray and autocompress in the versions of the cluster, and
    the task as an installed module.
    """

    image_uri: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,499}$")


class RayAddress(_Strict):
    """auto joins a running cluster, else starts a local one; local always starts one; else HOST:PORT."""

    address: str = "auto"
    runtime_env: RuntimeEnv | None = None

    @property
    def image(self) -> str | None:
        """The image that workers run in."""
        return None if self.runtime_env is None else self.runtime_env.image_uri


class SearchConfig(_Strict):
    """One search, as a YAML file describes it."""

    study: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    task: str | dict[str, Any]
    search_space: str = "hybrid"
    target: Target = Target()
    train: Train = Train()
    objectives: tuple[str, ...] = Field(("size_bytes", "accuracy", "latency_ms"), min_length=1)
    budget: Budget = Budget()
    search: SearchSettings = SearchSettings()
    storage: str = "sqlite:///autocompress.db"
    tracking: Tracking | None = Tracking()
    ray: RayAddress = RayAddress()
    _root: Path = PrivateAttr(default=Path("."))
    _held: Any = PrivateAttr(default=None)
    _document: Document = PrivateAttr(default=Document("config", {}))

    def shown(self) -> dict[str, Any]:
        """The values as people may see them: URLs without their passwords."""
        data = self.model_dump(mode="json")
        data["storage"] = shown(self.storage)
        if self.tracking is not None:
            data["tracking"]["uri"] = shown(self.tracking.uri)
        return data

    @field_validator("objectives")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("an objective stands twice: name each once")
        return value

    @field_validator("storage")
    @classmethod
    def _storage_url(cls, value: str) -> str:
        return checked_url(value, "storage")

    @field_validator("tracking")
    @classmethod
    def _tracking_url(cls, value: Tracking | None) -> Tracking | None:
        if value is None or is_server(value.uri):
            return value
        return value.model_copy(update={"uri": checked_url(value.uri, "tracking.uri")})

    @model_validator(mode="after")
    def _two_databases(self) -> "SearchConfig":
        uri = None if self.tracking is None or is_server(self.tracking.uri) else self.tracking.uri
        if uri is not None and same_database(self.storage, uri):
            raise ValueError(
                f"storage and tracking.uri mean the same database ({shown(self.storage)}): "
                "give each one of its own, as their tables do not go together"
            )
        return self

    @model_validator(mode="after")
    def _task_in_image(self) -> "SearchConfig":
        code = self.task if isinstance(self.task, str) else str(self.task.get("model", ""))
        if self.ray.image is not None and code.rpartition(":")[0].endswith(".py"):
            raise ValueError(
                f"ray.runtime_env.image_uri: Ray sends no code into a container, and {code!r} is a file: install it in "
                "the image, and write package.module:factory"
            )
        return self

    @property
    def root(self) -> Path:
        """The folder of the config file, where relative paths of the task start."""
        return self._root

    @property
    def document(self) -> Document:
        """What the file says, with lines for errors."""
        return self._document

    @property
    def held(self) -> Any:
        """The task itself, where it is an object of this process; None where `task` says where it comes from."""
        return self._held

    def identity(self) -> str:
        """A digest of everything that makes two searches comparable: not of how long, where or how wide they run."""
        data = self.model_dump(mode="json", exclude={"storage", "tracking", "ray", "train"})
        data["search"] = {"seed": self.search.seed}
        data["task"] = data["task"] if self.held is None else "object"  # which one, its content says
        return digest(data)


def find_config(name: str) -> Path:
    """The file that a command's CONFIG means: a path, or the name of a bundled experiment. Raises ConfigError."""
    path = Path(name)
    if path.exists() and not path.is_dir():  # what is no regular file is refused by name when it is read
        return path
    bundled = FOLDERS["experiments"] / name / "search.yaml"
    if re.fullmatch(r"[A-Za-z0-9_-]+", name) and bundled.is_file():
        return bundled
    known = sorted(found.parent.name for found in FOLDERS["experiments"].glob("*/search.yaml"))
    raise ConfigError(f"{name}: no such config file or bundled experiment; {suggest(name, known)}")


def study_name(folder: str) -> str:
    """A valid study name from a folder's; what its letters lose is made up by a digest, so that names stay apart."""
    plain = unicodedata.normalize("NFKD", folder)
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    name = re.sub(r"[^A-Za-z0-9._-]", "-", plain).lstrip("._-")
    if len(name) <= 100 and name and not any(letter.isalnum() and not letter.isascii() for letter in plain):
        return name
    words = re.sub(r"-{2,}", "-", name)[:90].strip("._-") or "study"
    return f"{words}-{digest(folder)[:8]}"


def load_config(path: Path, changes: Mapping[str, Any] | None = None, **overrides: Any) -> SearchConfig:
    """Read and check a config. Raises ConfigError.

    changes take the place of entries, and overrides, where they are not None, of entries of `search`.
    """
    document = read_yaml(path)
    document.data.setdefault("study", study_name(path.resolve().parent.name))
    return make_config(document, path.resolve().parent, changes or {}, overrides)


def make_config(
    document: Document, root: Path, changes: Mapping[str, Any], overrides: Mapping[str, Any], held: Any = None
) -> SearchConfig:
    """Check what a document says, with changes as load_config takes them. Raises ConfigError.

    root: the folder where relative paths start; held: the task, where it is an object of this process.
    """
    document.data.update(changes)
    search = document.data.setdefault("search", {})
    if isinstance(search, dict):
        search.update({key: value for key, value in overrides.items() if value is not None})
    config = validate(SearchConfig, document)
    config._document, config._root, config._held = document, root, held
    return config
