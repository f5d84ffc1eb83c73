"""A command as the service runs it: who it is and how it ended stand in files."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from autocompress.terminal import job


@pytest.mark.parametrize(
    ("command", "code"), [(["techniques", "--json"], 0), (["search", "none.yaml"], 2), (["fly"], 2)]
)
def test_the_exit_code_is_left_in_a_file(
    command: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT)
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    monkeypatch.setattr(sys, "argv", ["job", str(lock), "3", str(tmp_path / "3.exit"), *command])
    try:
        with pytest.raises(SystemExit) as ended:
            job.main()
    finally:
        os.close(lock)
        signal.signal(signal.SIGINT, before)
    assert ended.value.code == code
    assert (tmp_path / "3.exit").read_text() == f"{code}\n"
    who = json.loads((tmp_path / "lock").read_text())
    assert (who["pid"], who["run"]) == (os.getpid(), 3)
