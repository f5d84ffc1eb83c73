"""Models of trials in MLflow: logged with their runs, and registered under a study's name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Logged:
    """A model that stands with a trial's run; text says what it is."""

    run_id: str
    model_id: str
    text: str


class Taken(Exception):
    """A registered model of the study's name is there that this study did not make."""


def log_onnx(uri: str, run_id: str, name: str, data: bytes, example: tuple[Any, Any]) -> str:
    """Log a file with a run as a model of the ONNX flavour; returns its id. The run is active afterwards."""
    import mlflow
    import mlflow.onnx
    import onnx

    mlflow.set_tracking_uri(uri)
    with mlflow.start_run(run_id=run_id):
        found: Any = mlflow.onnx.log_model(
            onnx.load_from_string(data),
            name=name,
            signature=mlflow.models.infer_signature(*example),
            pip_requirements=["onnxruntime", "numpy"],  # inferring them would start a process and take seconds
            save_as_external_data=False,
        )
    return str(found.model_id)


def register(client: Any, study: str, models: Mapping[int, Logged], aliases: Mapping[str, int]) -> None:
    """Make a version of each model that has none, and let the aliases name those of their trials.

    Raises Taken where the registered model of that name is not this study's.
    """
    _ensure_model(client, study)
    versions = _versions(client, study)
    for number, model in models.items():
        if model.model_id not in versions:
            made = client.create_model_version(
                study,
                f"models:/{model.model_id}",
                run_id=model.run_id,
                tags={"autocompress.trial": str(number)},
                description=model.text,
                model_id=model.model_id,
            )
            versions[model.model_id] = str(made.version)
    for alias, number in aliases.items():
        if number in models:
            client.set_registered_model_alias(study, alias, versions[models[number].model_id])


def _ensure_model(client: Any, study: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_registered_model(study)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        text = "The models on the front of a search by autocompress, by what one would pick them for."
        client.create_registered_model(study, {"autocompress.study": study}, text)
        return
    if found.tags.get("autocompress.study") != study:
        raise Taken


def _versions(client: Any, study: str) -> dict[str, str]:
    """The versions that are there, by the model that they are of."""
    found, token = {}, None
    while True:
        page = client.search_model_versions(f"name='{study}'", page_token=token)
        for version in page:
            model_id = version.model_id or str(version.source).rpartition("/")[2]
            found[model_id] = str(version.version)
        token = page.token
        if not token:
            return found
