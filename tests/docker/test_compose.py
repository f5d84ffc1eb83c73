"""The files of docker/: what they say holds by itself, and is what the native stack runs."""

import json
import re
import stat
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import check_jsonschema
import pytest
import stack
import yaml
from jsonschema import validators
from make_secrets import make_secrets

from autocompress.terminal import cli

DOCKER = Path(stack.__file__).parent
ROOT = DOCKER.parent
SCHEMA = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor" / "compose-spec.json"
HARDENED = {
    "read_only": True,
    "init": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "user": "1000:1000",
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    return stack.read_services(stack.read_variables())


def errors(document: Any) -> list[str]:
    schema = json.loads(SCHEMA.read_text())
    return [error.message for error in validators.validator_for(schema)(schema).iter_errors(document)]


def test_the_compose_file_is_one_by_its_published_schema(compose: dict[str, Any]) -> None:
    assert errors(compose) == []
    assert errors({**compose, "services": {"server": {"imagee": "a"}}})


def test_every_variable_is_named_once_and_used(compose: dict[str, Any]) -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)\}", (DOCKER / "compose.yaml").read_text()))
    named = stack.read_variables()
    assert used == set(named)
    assert {*stack.HOSTS, *stack.PORTS, *stack.FOLDERS} <= set(named)
    # What the native stack gives another value is what differs between machines: hosts, ports and folders.
    assert {name for name in named if name.endswith("_HOST")} <= set(stack.HOSTS)
    assert {name for name in named if name.endswith("_PORT")} == set(stack.PORTS)
    assert {name for name, value in named.items() if value.startswith("/")} == set(stack.FOLDERS)


def test_every_service_is_confined_watched_limited_and_pinned(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == {"postgres", "mlflow", "ray-head", "worker", "server"}
    for name, service in services.items():
        assert {key: service[key] for key in HARDENED} == HARDENED, name
        assert re.fullmatch(r"[a-z/]+:\d+\.\d+[\w.-]*", service["image"]), name
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
        assert service["pids_limit"] > 0
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_secrets_are_files_and_stand_in_no_variable_or_command(
    compose: dict[str, Any], services: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    make_secrets(tmp_path / "secrets")
    made = {path.name: path for path in (tmp_path / "secrets").iterdir()}
    assert {name: f"./secrets/{name}" for name in made} == {n: s["file"] for n, s in compose["secrets"].items()}
    assert {stat.S_IMODE(path.stat().st_mode) for path in made.values()} == {0o600}
    before = {name: path.read_text() for name, path in made.items()}
    make_secrets(tmp_path / "secrets")
    assert {name: path.read_text() for name, path in made.items()} == before
    assert "docker/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    for name, service in services.items():
        words = json.dumps([service["command"], service.get("environment", {})])
        named = set(re.findall(r"/run/secrets/([\w.]+)", words))
        through_files = {"autocompress_pgpass", "mlflow_pgpass"}  # databases.sql and jobs of the cluster read them
        assert named <= set(service["secrets"]) <= named | through_files, name
        assert "://" not in words or not re.search(r"://[^/\s\"]*:[^/\s\"@]*@", words), name


def test_only_who_needs_the_database_or_the_secrets_of_the_service_has_them(
    services: dict[str, dict[str, Any]],
) -> None:
    """Code of searches runs on workers, which reach no database and hold no password."""
    worker = services["worker"]
    assert worker["networks"] == ["compute"]
    assert worker["secrets"] == ["ray_token"]
    assert not any(volume != "/tmp" for volume in worker["volumes"])
    assert [name for name, service in services.items() if "ports" in service] == ["mlflow", "server"]


def test_services_are_reached_where_they_listen(services: dict[str, dict[str, Any]]) -> None:
    named = stack.read_variables()
    words = {name: json.dumps(service["command"]) for name, service in services.items()}
    assert f'"-p", "{named["POSTGRES_PORT"]}"' in words["postgres"]
    assert f"--port {named['MLFLOW_PORT']}" in words["mlflow"]
    assert f"--port={named['RAY_PORT']}" in words["ray-head"]
    for name, host in (("postgres", "POSTGRES"), ("mlflow", "MLFLOW"), ("ray-head", "RAY")):
        assert named[f"{host}_HOST"] == name
    server = services["server"]["environment"]
    assert server["AUTOCOMPRESS_TRACKING"] == f"http://mlflow:{named['MLFLOW_PORT']}"
    assert server["AUTOCOMPRESS_STORAGE"].endswith(f"@postgres:{named['POSTGRES_PORT']}/autocompress")
    assert server["RAY_AUTH_MODE"] == services["ray-head"]["environment"]["RAY_AUTH_MODE"] == "token"
    assert f"--ray=ray-head:{named['RAY_PORT']}" in services["server"]["command"]


def test_the_server_is_started_with_options_that_it_has(services: dict[str, dict[str, Any]]) -> None:
    import typer

    serve = typer.main.get_command(cli.app).commands["serve"]  # type: ignore[attr-defined]
    known = {option for parameter in serve.params for option in parameter.opts}
    program, command, *options = services["server"]["command"]
    assert (program, command) == ("autocompress", "serve")
    assert {option.split("=")[0] for option in options} <= known


def test_services_wait_for_the_health_of_others_in_no_circle(services: dict[str, dict[str, Any]]) -> None:
    TopologicalSorter({name: service.get("depends_on", {}) for name, service in services.items()}).prepare()
    assert all(
        rule == {"condition": "service_healthy"} for s in services.values() for rule in s.get("depends_on", {}).values()
    )


def test_natively_only_hosts_ports_and_folders_differ_and_two_stacks_share_nothing() -> None:
    one, other, named = stack.Stack(), stack.Stack(), stack.read_variables()
    try:
        for made in (one, other):
            differing = {name for name, value in made.variables.items() if named[name] != value}
            assert differing == {*stack.HOSTS, *stack.PORTS, *stack.FOLDERS} - {"PUBLISH"}
            assert {made.variables[name] for name in stack.HOSTS} == {"127.0.0.1"}
            assert all(made.variables[name].startswith(f"{made.folder}/") for name in stack.FOLDERS)
            assert stat.S_IMODE(made.secrets.stat().st_mode) == 0o700
        ports = [{made.variables[name] for name in stack.PORTS} for made in (one, other)]
        assert [len(taken) for taken in ports] == [5, 5]
        assert one.folder != other.folder
        assert (one.secrets / "ray_token").read_text() != (other.secrets / "ray_token").read_text()
    finally:
        one.down(), other.down()
    assert not one.folder.exists()


def test_the_image_holds_what_the_services_run() -> None:
    image = (DOCKER / "Dockerfile").read_text()
    assert re.search(r"^FROM python:3\.\d+\.\d+-slim-\w+$", image, re.MULTILINE)
    assert "--constraint constraints.txt '.[examples,stack]'" in image
    copied = re.findall(r"^COPY (.*) \S+$", image, re.MULTILINE)
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert ignored[0] == "*"
    assert sent == {name for names in copied for name in names.split()}
    assert re.search(r"^USER \d+:\d+$", image, re.MULTILINE)


def test_the_cluster_for_kubernetes_runs_the_same_image_and_commands(services: dict[str, dict[str, Any]]) -> None:
    documents = list(yaml.safe_load_all((DOCKER / "kuberay.yaml").read_text()))
    (cluster,) = (found for found in documents if found["kind"] == "RayCluster")
    head, (worker,) = cluster["spec"]["headGroupSpec"], cluster["spec"]["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    for group in (head, worker):
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"] == services["server"]["image"]
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
