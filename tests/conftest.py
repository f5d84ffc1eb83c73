"""The order of the tests, and which of them are quick.

Files that take longest come first, so that none is left to last. `--quick` leaves out those that start Ray, servers or
searches, and takes one case each of the first tests of every other file: a new file is in by itself.
"""

import gc
import importlib.util
import os
import pkgutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

# In the background of a script interrupts are ignored, here and in all that is started from here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Those that start Ray, servers or commands, and those whose first tests are whole searches: none of them is quick.
PROCESSES = (
    "test_interruptions", "test_readme", "test_clusters", "test_executors", "test_own_technique", "test_faults",
    "test_end_to_end", "test_outage", "test_leftovers", "test_install", "test_server",
    "test_pages", "test_page", "test_postgres_away", "test_ray_jobs", "test_away", "test_described",
)  # fmt: skip
SEARCHES = (
    "test_own_models", "test_identity", "test_no_room", "test_data_said", "test_lower_is_better", "test_coverage",
    "test_lost_attempts",
)  # fmt: skip
# By what they take, those of half a minute and more before all others.
LONGEST = (
    "test_ray_jobs",
    "test_interruptions", "test_readme", "test_clusters", "test_own_models", "test_executors", "test_own_technique",
    "test_server", "test_faults", "test_end_to_end", "test_contract", "test_identity", "test_qat", "test_masks",
    "test_outage", "test_no_room", "test_cli", "test_apply", "test_coverage", "test_data_said", "test_trial",
    "test_odd_layers", "test_leftovers", "test_weight_pruning", "test_low_bit", "test_install", "test_pages",
    "test_page", "test_away", "test_described", "test_api",
)  # fmt: skip
TESTS_A_FILE = 3  # of the quick ones


def pytest_configure(config: pytest.Config) -> None:
    """Give every test process a temporary folder of its own, and look at imports where all quick tests run.

    Measurements in one folder wait for the trials of another process there.
    """
    if config.getoption("quick") and not (config.option.file_or_dir or config.option.keyword):
        config.pluginmanager.register(Imported())
    if not hasattr(config, "workerinput") and config.getoption("numprocesses", None):
        return  # this one hands out the tests alone
    folder = Path(tempfile.gettempdir()) / f"tests-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    folder.mkdir(exist_ok=True)
    os.environ["TMPDIR"], tempfile.tempdir = str(folder), None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that `make quick` gives."""
    parser.addoption("--quick", action="store_true", help="the first tests of every file that is quick")


def pytest_collection_finish() -> None:
    """Look less often for garbage, and not among what imports made: it was a tenth of the time of exports."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest files first; what is equal stays in its order."""
    rank = {name: index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))
    if config.getoption("quick"):
        kept = quick(items)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def quick(items: list[pytest.Item]) -> list[pytest.Item]:
    """The first case of each of the first tests of every file that is quick."""
    chosen: dict[Path, dict[str, pytest.Item]] = {}
    for item in items:
        tests, name = chosen.setdefault(item.path, {}), item.nodeid.partition("[")[0]
        if item.path.stem not in (*PROCESSES, *SEARCHES) and len(tests) < TESTS_A_FILE:
            tests.setdefault(name, item)
    return [item for tests in chosen.values() for item in tests.values()]


class Imported:
    """Which modules of the package the quick tests imported, in every process that ran some; all of them must be."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a process imported."""
        self.names |= set(getattr(node, "workeroutput", {}).get("imported", ()))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Hand on what was imported, or fail where a module is missing."""
        self.names |= {name for name in sys.modules if name.startswith("autocompress.")}
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["imported"] = sorted(self.names)
        elif session.exitstatus == pytest.ExitCode.OK and (missing := modules() - self.names):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            sys.stderr.write(f"\nno quick test imports {', '.join(sorted(missing))}\n")


def modules() -> set[str]:
    """The modules of the package, by full name."""
    package = importlib.util.find_spec("autocompress")
    assert package is not None
    return {info.name for info in pkgutil.walk_packages(package.submodule_search_locations, "autocompress.")}
