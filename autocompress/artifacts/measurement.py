"""What measurement.json says, checked: numbers are finite, names are words, and nothing is taken for something else."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ..documents import Document, validate


def _printable(word: str) -> str:
    if not word.isprintable():
        raise ValueError(f"{word!r} holds characters that nobody can read: write words")
    return word


Number = Annotated[float, Field(allow_inf_nan=False)]
Word = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
Numbers = dict[Word, Number]


class _Read(BaseModel):
    """Strict on what is read; other keys are for people and for later versions, and nothing is taken from them."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class MeasuredFor(_Read):
    """The target that was measured for."""

    runtime: Word
    threads: int = Field(ge=1)
    batch_size: int = Field(ge=1)


class Processor(_Read):
    """The processor that was measured on, and whether it has instructions for 8-bit products."""

    name: Word
    vnni: bool


class Measurement(_Read):
    """The numbers of an artifact directory.

    measured is what the file itself is said to have; claimed, what the search had found of the trial; baseline, what
    the uncompressed model has. classes are named in the order of outputs.
    """

    study: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    quality: Word
    measured: Numbers
    claimed: Numbers = {}
    baseline: Numbers = {}
    classes: list[Any] = []
    target: MeasuredFor | None = None
    processor: Processor | None = None

    @model_validator(mode="after")
    def _whole(self) -> "Measurement":
        for name in ("size_bytes", self.quality, f"test_{self.quality}"):
            if name not in self.measured:
                raise ValueError(f"measured holds no {name!r}")
        return self


def parse_measurement(data: Any) -> Measurement:
    """The measurement that plain values of JSON hold. Raises ConfigError that names key, value and rule."""
    return validate(Measurement, Document("measurement", data))
