"""What people see of a search in a browser: MLflow's page, from the address that `ui` prints to the model's file."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from browser import chromium
from tiny import make_project, run

from autocompress.search.store import StudyStore

PATIENCE = 120.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all tests."""
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def searched(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that is logged to MLflow; made where there is a browser to look at it."""
    folder = make_project(
        tmp_path_factory.mktemp("pages"),
        tracking={"uri": "sqlite:///mlflow.db", "register": True},
        budget={"size": "1 MB", "accuracy_drop": 0.95},
    )
    assert run(folder, "search", "search.yaml", "--executor", "inline").code == 0
    return folder


@pytest.fixture(scope="module")
def server(searched: Path) -> Iterator[str]:
    """The address of MLflow's page, as `autocompress ui` starts it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", "sqlite:///mlflow.db"]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
        cwd=searched,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(PATIENCE)


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server does not answer"
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A window of its own."""
    window = browser.new_page(viewport={"width": 1800, "height": 1000})
    window.set_default_timeout(PATIENCE * 1000)
    yield window
    window.close()


def test_a_newcomer_comes_from_the_printed_address_to_a_model_that_runs(
    page: Any, server: str, searched: Path, tmp_path: Path
) -> None:
    store = StudyStore.open(f"sqlite:///{searched}/autocompress.db", "tiny")
    page.goto(f"{server}/{store.get('mlflow_page')}")
    row = page.locator("tr", has_text="knee")
    row.wait_for()
    # The half of the page for trained models, and the picture of the front.
    page.get_by_text("Model registry").first.wait_for()
    assert page.get_by_text("Judges").count() == 0
    picture = page.locator("img[src*='front.png']")
    page.wait_for_function("image => image.naturalWidth == 880", arg=picture.element_handle())
    with page.expect_download() as download:
        row.get_by_role("link", name="download").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert file.name == "model.onnx"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: np.zeros((2, 1, 8, 8), np.float32)})
    assert output.shape == (2, 4)


def test_the_front_is_a_table_with_columns_and_a_row_leads_to_its_trial(page: Any, server: str, searched: Path) -> None:
    store = StudyStore.open(f"sqlite:///{searched}/autocompress.db", "tiny")
    page.goto(f"{server}/{store.get('mlflow_page')}")
    link = page.get_by_role("link", name="The front as a table to sort and compare")
    link.wait_for()
    with page.expect_popup() as opened:
        link.click()
    table = opened.value
    table.set_default_timeout(PATIENCE * 1000)
    for name in ("size_bytes", "accuracy", "latency_ms", "speedup"):
        table.get_by_role("columnheader", name=name, exact=True).first.wait_for()
    first = table.locator("a", has_text="#").first
    name = first.inner_text()
    assert " · " in name
    first.click()
    table.get_by_text("autocompress.fingerprint").first.wait_for()
    table.get_by_text("svd(energy=").first.wait_for()
    table.close()


@pytest.fixture(scope="module")
def reported(searched: Path) -> str:
    """The address of the report, as a file."""
    assert run(searched, "report", "tiny").code == 0
    return (searched / "report.html").as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_draws_its_figures_and_leads_from_a_point_to_its_recipe(
    browser: Any, reported: str, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 1000}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(reported)
    page.wait_for_function("document.getElementById('still').hidden")
    assert page.locator("#quality .main-svg").count() > 0
    assert page.locator("#speed .errorbar").count() > 0
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 31)"}[scheme]
    # The front is drawn before the uncompressed model, which is last.
    point = page.locator("#quality .scatterlayer .trace").nth(-2).locator(".point").first.bounding_box()
    place = (point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    page.mouse.move(*place)
    page.mouse.click(*place)
    page.wait_for_function("location.hash.startsWith('#trial-')")
    name = page.evaluate("location.hash")
    assert page.evaluate("document.activeElement.id") == name[1:]
    assert "svd(" in page.locator(name).inner_text()
    # Nothing was refused by the page's own policy, and nothing but the file itself was asked for.
    assert said == []
    assert [url.partition("#")[0] for url in asked if not url.startswith(("data:", "blob:"))] == [reported]
    page.close()


def test_the_report_is_readable_without_script_and_in_a_narrow_window(browser: Any, reported: str) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 400, "height": 800})
    page = context.new_page()
    page.goto(reported)
    assert page.locator("#still").is_visible()
    page.get_by_role("link").first.click()
    assert "#trial-" in page.url
    page.locator("summary", has_text="What each step did").first.click()
    assert page.locator("section.recipe details[open]").count() == 1
    assert page.get_by_text("autocompress export tiny --pick knee --out chosen").is_visible()
    context.close()


def test_no_script_of_somebody_else_s_runs_in_the_report(browser: Any, reported: str, searched: Path) -> None:
    """As if a text had come through unescaped after all: the page's own policy is the second lock."""
    broken = searched / "broken.html"
    text = (searched / "report.html").read_text()
    broken.write_text(text.replace("<main>", "<main><script>document.title = 'owned'</script>", 1))
    page = browser.new_page()
    page.goto(broken.as_uri())
    page.wait_for_function("document.getElementById('still').hidden")
    assert page.title() == "tiny: compression report"
    page.close()
