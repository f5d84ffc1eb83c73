"""Takes the pictures of the service's page and of MLflow's, from running servers with a search that found something.

    autocompress serve &
    autocompress search mnist5k_lenet --server http://127.0.0.1:8000
    python experiments/service/pictures.py mnist5k-lenet          # page.png and trial.png

    autocompress ui &                                             # prints the address of the newest search
    python experiments/service/pictures.py --mlflow ADDRESS       # mlflow.png and mlflow_table.png

Needs `pip install 'autocompress[service,browser]'`, and a Chromium: that of the variable CHROMIUM, or of playwright.
"""

import argparse
import io
import os
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
TOKEN = Path(".autocompress/service/admin.token")
COLOURS = 128  # of a palette: text and marks stay sharp, and the files small


def front(page: Any, study: str) -> None:
    """A search's page, once its figures are drawn."""
    page.goto(f"/searches/{study}")
    page.locator("#quality .point[tabindex='0']").wait_for()
    page.locator("#speed .point[tabindex='0']").wait_for()


def trial(page: Any, study: str) -> None:
    """The same with the trial that is called the knee, come to by keyboard."""
    front(page, study)
    page.get_by_role("row", name="knee").get_by_role("link").focus()
    page.keyboard.press("Enter")
    page.locator("#detail section.recipe").wait_for()


def take(page: Any, path: Path) -> None:
    """Write what is seen as a PNG with few colours."""
    page.wait_for_timeout(500)  # figures fade in
    image = Image.open(io.BytesIO(page.screenshot()))
    image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def take_pages(browser: Any, given: argparse.Namespace) -> None:
    """The front by day, and a trial by night."""
    for name, scheme, height, show in (("page", "light", 1525, front), ("trial", "dark", 980, trial)):
        size = {"width": 1280, "height": height}
        context = browser.new_context(base_url=given.server, viewport=size, color_scheme=scheme)
        page = context.new_page()
        page.goto("/")
        page.get_by_label("Your token").fill(given.token_file.read_text().strip())
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Searches").wait_for()
        show(page, given.study)
        take(page, given.out / f"{name}.png")


def take_mlflow(browser: Any, address: str, out: Path) -> None:
    """A search's description in MLflow, and its front as a table."""
    context = browser.new_context(viewport={"width": 1400, "height": 1060})
    # An assistant opens by itself at a first visit, over a third of the page.
    context.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
    page = context.new_page()
    page.goto(address)
    page.wait_for_function("[...document.images].some(one => one.src.includes('front.png') && one.naturalWidth)")
    page.get_by_text("Show more", exact=True).click()
    take(page, out / "mlflow.png")
    with page.expect_popup() as opened:
        page.get_by_role("link", name="The front as a table to sort and compare").click()
    table = opened.value
    table.set_viewport_size({"width": 1400, "height": 620})
    table.get_by_role("columnheader", name="compression_ratio", exact=True).first.wait_for()
    table.locator("a", has_text="#").first.wait_for()
    take(table, out / "mlflow_table.png")


def main() -> None:
    """The pictures of one server or of the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", default="mnist5k-lenet")
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--token-file", type=Path, default=TOKEN)
    parser.add_argument("--mlflow", metavar="ADDRESS", help="that of the search's run")
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    with sync_playwright() as driver:
        path = os.environ.get("CHROMIUM") or driver.chromium.executable_path
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        if given.mlflow:
            take_mlflow(browser, given.mlflow, given.out)
        else:
            take_pages(browser, given)
        browser.close()


if __name__ == "__main__":
    main()
