"""Cores are for workers: the controller computes on one."""

from pathlib import Path
from typing import Any

import pytest
import tiny
from threadpoolctl import threadpool_info

from autocompress.config import load_config
from autocompress.executors import InlineExecutor
from autocompress.search.controller import Controller
from autocompress.search.interrupts import Interrupts
from autocompress.search.plan import make_plan
from autocompress.search.run import _open
from autocompress.search.setup import set_up


class Looking:
    """Keeps how many threads matrices may take while a search runs."""

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def update(self, *_: Any) -> None:
        """Told by the controller whenever something changed."""
        self.threads |= {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_a_controller_computes_on_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.make_project(tmp_path, search={"trials": 1, "workers": 1})
    executor, looking = InlineExecutor(), Looking()
    planned = make_plan(set_up(load_config(tmp_path / "search.yaml")), executor, tiny.Silent())
    Controller(planned, _open(planned), executor, Interrupts(), (looking,), str).run()
    assert looking.threads == {1}
