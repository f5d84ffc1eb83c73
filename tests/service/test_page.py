"""The page in a real browser: from the form to a file that runs, by keyboard, live, and readable by everybody."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from browser import chromium
from served import Server, archive, served, until
from studies import metrics, studied

from autocompress.outcome import Completed, Failed, Infeasible
from autocompress.service.database import Database, Search

PATIENCE_MS = 180_000
EVIL = "<img src=x onerror=document.title='owned'>"
RGB = re.compile(r"rgba?\((\d+), (\d+), (\d+)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all tests."""
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def server(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that holds a search of nine trials, five of them on its front, which ended before."""
    folder = tmp_path_factory.mktemp("page")
    front = [Completed(metrics(40.0 * n, 0.95 + 0.005 * n, 6.0 - n), {}, {"train": 3.0}) for n in range(1, 6)]
    worse = [Completed(metrics(190.0, 0.955, 1.0), {}), Infeasible(metrics(300, 0.98, 2.0), {"size": 0.5}, EVIL)]
    studied(
        folder,
        *front,
        *worse,
        Failed(f"ran out of memory: {EVIL}", details=EVIL),
        Completed(metrics(195, 0.955, 1), {}),
    )
    with served(folder, slots=4) as running:
        own(running, "made")
        yield running


def own(server: Server, study: str) -> None:
    """A finished search of the admin's on a study that is there."""
    database = Database(f"sqlite:///{server.folder / 'autocompress.db'}")
    values = {"config": "search.yaml", "config_text": "search: {trials: 9}", "content": "0", "events": 0, "revision": 0}
    counts = {"run": 1, "run_revision": 0, "interrupted": 0, "losses": 0, "begun": False, "priority": 0}
    with database.transaction() as session:
        session.add(Search(id="f" * 32, study=study, owner="admin", state="finished", verdict="feasible", created=1.0,
                           spent_s=90.0, **values, **counts))  # fmt: skip
    database.close()


def submit(server: Server, study: str, trials: int = 5, **pretend: Any) -> None:
    """A search of so many trials by a controller that pretends as it is told."""
    config = {"study": study, "task": "task.py:tiny", "search_space": "space.yaml", "tracking": None}
    files = {"search.yaml": json.dumps(config), "pretend.json": json.dumps(pretend), "task.py": ""}
    sent = server.client.post("/api/v1/searches", files={"archive": archive(files)}, data={"trials": str(trials)})
    assert sent.status_code == 201, sent.text


@contextmanager
def window(browser: Any, server: Server, fails: str = "no status", **options: Any) -> Iterator[Any]:
    """A window of somebody who is signed in; nothing may be refused by the policy, come from elsewhere, or fail.

    fails: a status that is meant to be answered.
    """
    context = browser.new_context(base_url=server.url, **{"viewport": {"width": 1280, "height": 900}, **options})
    token = (server.folder / "service" / "admin.token").read_text().strip()
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not inside(request.url, server) else None)
    page.goto("/")
    page.get_by_label("Your token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/")
    page.get_by_role("heading", name="Searches").wait_for()
    yield page
    context.close()
    assert [line for line in said if f"with a status of {fails}" not in line] == []


def inside(url: str, server: Server) -> bool:
    return url.startswith((f"{server.url}/", "data:", "blob:"))


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """A window of the admin."""
    with window(browser, server) as found:
        yield found


def opened(page: Any, study: str = "made") -> None:
    """Go to a search, and wait until its figures are drawn and can be walked."""
    page.goto(f"/searches/{study}")
    page.locator("#quality .point[tabindex='0']").wait_for()
    page.locator("#speed .point[tabindex='0']").wait_for()


def runs(data: bytes) -> bool:
    """Whether an exported archive holds a model that ONNX Runtime runs."""
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        (name,) = (name for name in found.namelist() if name.endswith("/model.onnx"))
        session = onnxruntime.InferenceSession(found.read(name), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: np.zeros((2, 1, 8, 8), np.float32)})
    return bool(output.shape == (2, 4))


def downloaded(page: Any, act: Any) -> bytes:
    """What comes down by an act."""
    with page.expect_download(timeout=PATIENCE_MS) as download:
        act()
    return Path(download.value.path()).read_bytes()


def test_from_the_form_by_a_plan_to_a_file_that_runs(page: Any, tmp_path: Path) -> None:
    project = tmp_path / "project.tar.gz"
    project.write_bytes(archive(study="tiny"))
    page.get_by_role("link", name="New search").first.click()
    page.get_by_label("Archive", exact=True).set_input_files(project)
    assert page.get_by_label("An archive of a project folder").is_checked()
    page.get_by_label("Size of the file, at most").fill("-1")
    page.get_by_role("button", name="Start the search").click()
    assert "/new" in page.url  # the browser itself says what is wrong
    page.get_by_label("Size of the file, at most").fill("1")
    page.get_by_label("unit of size").select_option("MB")
    page.get_by_label("Accuracy lost, at most").fill("95")
    page.get_by_role("button", name="See the plan").click()
    plan = page.get_by_role("heading", name="The plan")
    plan.wait_for()
    answer = page.locator("#answer").inner_text()
    assert "baseline: " in answer
    assert "budget: size_bytes at most 1.0 MB, accuracy at least 0.05" in answer
    # The file is still chosen.
    page.get_by_role("button", name="Start the search").click()
    page.wait_for_url("**/searches/tiny")
    # From here the page follows by itself, to the end of the search.
    page.locator(".state.finished").wait_for()
    page.locator("#quality .point[tabindex='0']").wait_for()
    page.locator("a[data-detail]").first.click()
    page.locator("#detail section.recipe").wait_for()
    assert "svd(" in page.locator("#detail").inner_text()
    page.locator("#detail summary", has_text="What each step did, by layer").click()
    assert runs(downloaded(page, page.locator("#detail").get_by_role("link", name="Export").click))
    assert re.search("begins by itself", page.locator("#said").inner_text())


def test_keys_alone_lead_to_a_point_its_trial_and_its_file(page: Any, server: Server) -> None:
    opened(page)
    at = "document.activeElement"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate(f"{at}.classList.contains('point')"):
            break
    assert page.evaluate(f"{at}.getAttribute('role')") == "button"
    assert page.evaluate(f"{at}.getAttribute('aria-label')") == "trial 0: 40 B, accuracy 0.9550, 0.2 ms"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(f"{at}.dataset.trial") == "3"
    page.keyboard.press("Enter")
    page.locator("#trial-3").wait_for()
    until(lambda: page.evaluate(f"{at}.id") == "trial-3")
    assert page.url.endswith("/searches/made#trial-3")
    assert "svd(" in page.locator("#trial-3").inner_text()
    page.keyboard.press("Tab")
    assert page.evaluate(f"{at}.id") == "export-3"
    assert page.evaluate(f"{at}.getAttribute('href')") == "/searches/made/export?trial=3"
    page.keyboard.press("Escape")
    until(lambda: page.evaluate(f"{at}.dataset.trial") == "3")
    assert page.locator("#trial-3").count() == 0


def test_a_point_is_clicked_and_an_address_leads_back_to_its_trial(page: Any) -> None:
    opened(page)
    point = page.locator("#speed .point[data-trial='1']").bounding_box()
    page.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    page.mouse.click(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    page.locator("#trial-1").wait_for()
    page.reload()
    page.locator("#detail #trial-1").wait_for()
    page.get_by_role("button", name="Close").click()
    until(lambda: page.evaluate("document.activeElement.id") == "trial-link-1")


def test_limits_are_typed_and_brushed_and_say_what_remains(page: Any) -> None:
    opened(page)
    remain, gone = page.locator("#remain"), page.locator("tr.gone")
    page.get_by_label("size at most").fill("0.13")
    until(lambda: remain.inner_text() == "3 of 5 on the front remain, 3 of 8 measured trials")
    assert gone.count() == 2
    page.get_by_label("accuracy at least").fill("0.96")
    until(lambda: remain.inner_text().startswith("2 of 5"))
    page.get_by_role("button", name="Clear").click()
    until(lambda: gone.count() == 0)
    box = page.locator("#quality .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 3, steps=4)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    until(lambda: page.get_by_label("size at most").input_value())
    size, least = (float(page.get_by_label(name).input_value()) for name in ("size at most", "accuracy at least"))
    assert 0.04 < size < 0.2
    assert 0.95 < least < 0.98
    left = [n for n in range(1, 6) if 40.0 * n <= 1000 * size and 0.95 + 0.005 * n >= least]
    until(lambda: remain.inner_text().startswith(f"{len(left)} of 5"))
    page.mouse.dblclick(box["x"] + 20, box["y"] + 20)
    until(lambda: page.get_by_label("size at most").input_value() == "")


def test_a_search_is_followed_and_steered_without_loading_anew(page: Any, server: Server) -> None:
    submit(server, "live", trials=90, seconds=0.5)
    page.evaluate("window.stayed = true")
    row = page.locator("tr", has_text="live")
    row.locator(".state.running").wait_for()
    count = row.locator(".count")
    before = count.inner_text()
    until(lambda: count.inner_text() != before)
    assert page.evaluate("window.stayed")
    row.get_by_role("link").click()
    page.locator("#quality .point[tabindex='0']").wait_for()
    page.evaluate("window.stayed = true")
    first = page.locator("#members a").first.inner_text()
    until(lambda: page.locator("#members a").first.inner_text() != first)
    assert page.evaluate("window.stayed")
    page.get_by_role("button", name="Pause").click()
    page.locator(".state.paused").wait_for()
    page.get_by_text("Change…").click()
    page.get_by_label("Priority").fill("5")
    page.get_by_role("button", name="Change", exact=True).click()
    until(lambda: server.get("live")["priority"] == 5)
    page.get_by_role("button", name="Resume").click()
    page.locator(".state.running").wait_for()
    page.get_by_text("Cancel…").click()
    page.get_by_role("button", name="Cancel this search").click()
    page.locator(".state.cancelled").wait_for()
    page.get_by_role("link", name="Log").click()
    page.get_by_role("heading", name="Log").wait_for()


def test_two_candidates_are_compared(page: Any) -> None:
    opened(page)
    page.get_by_label("compare trial 0").check()
    page.get_by_label("compare trial 4").check()
    page.get_by_role("button", name="Compare two").click()
    page.get_by_role("heading", name="Trial 0 and trial 4").wait_for()
    assert page.locator("section.recipe").count() == 2
    assert "+400.0%" in page.get_by_role("row", name=re.compile("^size_bytes 40 ")).inner_text()


def test_markup_in_reasons_stays_text(page: Any, server: Server) -> None:
    submit(server, "refused", refuses=f"task.py: {EVIL}: name one")
    server.wait("refused", "failed")
    for path in ("/", "/searches/refused", "/searches/made/trials", "/searches/made/trials/7", "/searches/made/why"):
        page.goto(path)
        assert page.get_by_text(EVIL).count() > 0, path
        assert page.locator("img[src='x']").count() == 0
        assert "owned" not in page.title()


def test_whoever_signs_out_sees_nothing_more(browser: Any, server: Server) -> None:
    with window(browser, server) as page:
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("Your token").wait_for()
        page.goto("/searches/made")
        assert page.url.endswith("/sign-in?to=%2Fsearches%2Fmade")
        assert "made" not in page.locator("main").inner_text()


def test_a_link_on_another_sites_page_leads_whoever_is_signed_in_to_its_end(page: Any, server: Server) -> None:
    other = page.context.new_page()
    other.goto(server.url.replace("127.0.0.1", "localhost") + "/sign-in")
    other.evaluate("address => { location.href = address }", f"{server.url}/searches/made/trials")
    other.get_by_role("heading", name="Trials").wait_for()
    # The cookie of that site is none of this one's, and nothing of this one goes there.
    assert other.url == f"{server.url}/searches/made/trials"
    other.close()


def test_the_pages_are_readable_without_script(browser: Any, server: Server) -> None:
    with window(browser, server, "422", java_script_enabled=False) as page:
        page.goto("/searches/made")
        page.get_by_role("link", name="0", exact=True).click()
        assert page.url.endswith("/searches/made/trials/0")
        assert page.get_by_role("link", name="Export").is_visible()
        page.goto("/new")
        page.get_by_label("Size of the file, at most").fill("3")
        page.get_by_label("An archive of a project folder").check()
        page.get_by_role("button", name="Start the search").click()
        assert page.get_by_role("alert").inner_text().startswith("This cannot be searched")
        assert page.get_by_label("Size of the file, at most").input_value() == "3"


PAGES = ("/", "/new", "/searches/made", "/searches/made/trials", "/searches/made/trials/0",
         "/searches/made/compare?trial=0&trial=1", "/searches/made/why", "/searches/made/log", "/none")  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_hold_to_the_rules_of_accessibility(browser: Any, server: Server, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install 'autocompress[browser]'")
    with window(browser, server, color_scheme=scheme) as page:
        for path in PAGES[:-1]:
            page.goto(path)
            if path == "/searches/made":
                opened(page)
                page.locator("a[data-detail]").first.click()
                page.locator("#detail section.recipe").wait_for()
            found = axe.Axe().run(page)
            told = [(rule["id"], rule["help"], [node["html"][:160] for node in rule["nodes"]][:3])
                    for rule in found.response["violations"]]  # fmt: skip
            assert told == [], path
        # Light grounds by day and dark ones by night.
        ground = RGB.match(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert ground is not None
        assert (int(ground[1]) > 128) == (scheme == "light")


def test_nothing_is_wider_than_a_phone(browser: Any, server: Server) -> None:
    with window(browser, server, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True) as page:
        for path in PAGES[:-1]:
            page.goto(path)
            if path == "/searches/made":
                opened(page)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
