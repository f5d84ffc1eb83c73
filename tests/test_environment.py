"""Secrets by environment or file."""

import errno
import os
from pathlib import Path

import pytest

from autocompress.environment import from_environment
from autocompress.errors import ConfigError


def test_a_variable_goes_before_its_file_and_both_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("A_SECRET", raising=False)
    assert from_environment("A_SECRET") is None
    (tmp_path / "secret").write_text("in the file\n")
    monkeypatch.setenv("A_SECRET_FILE", str(tmp_path / "secret"))
    assert from_environment("A_SECRET") == "in the file"
    monkeypatch.setenv("A_SECRET", "in the variable")
    assert from_environment("A_SECRET") == "in the variable"


def test_a_file_that_is_not_there_or_is_empty_is_said_with_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("A_SECRET", raising=False)
    monkeypatch.setenv("A_SECRET_FILE", str(tmp_path / "secret"))
    with pytest.raises(ConfigError, match=f"A_SECRET_FILE: .*secret: .*{os.strerror(errno.ENOENT).lower()}: name a"):
        from_environment("A_SECRET")
    (tmp_path / "secret").write_text(" \n")
    with pytest.raises(ConfigError, match="is empty: write the value of A_SECRET into it"):
        from_environment("A_SECRET")
