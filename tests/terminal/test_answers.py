"""What commands print or write when they are done."""

import os
from pathlib import Path

import pytest
from studies import metrics, studied
from tiny import run

from autocompress.errors import AutocompressError, WriteError
from autocompress.outcome import Completed
from autocompress.terminal.answers import write_page


def test_report_writes_a_page_and_says_where(tmp_path: Path) -> None:
    studied(tmp_path, Completed(metrics(100, 0.97, 2.0), {}))
    ran = run(tmp_path, "report", "made", "--out", "page.html")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("written: page.html (")
    text = (tmp_path / "page.html").read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert "--storage" not in text.split("plotly.js v")[0]  # the usual storage needs no naming
    assert run(tmp_path, "report", "made").code == 0
    assert (tmp_path / "report.html").is_file()


def test_report_refuses_what_it_cannot_find_or_write(tmp_path: Path) -> None:
    assert "no study 'made'" in run(tmp_path, "report", "made").err
    studied(tmp_path, Completed(metrics(100, 0.97, 2.0), {}))
    ran = run(tmp_path, "report", "made", "--out", "no/such.html")
    assert ran.code == 2
    assert "no/such.html: cannot be written" in ran.err
    assert "is a folder: name a file in it" in run(tmp_path, "report", "made", "--out", ".").err


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "page.html"
    write_page(b"first", out)
    write_page(b"second", out)
    assert out.read_bytes() == b"second"

    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WriteError):
        write_page(b"third", out)
    assert out.read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(AutocompressError, match="is a folder"):
        write_page(b"", tmp_path)
