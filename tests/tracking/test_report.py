"""The page of a study: whole in one file, safe whatever a study says, and readable without script."""

import base64
import hashlib
import io
import json
from html.parser import HTMLParser
from typing import Any

import pytest
from PIL import Image

from autocompress.outcome import Limit, Metrics
from autocompress.tracking.figures import Picture, Point
from autocompress.tracking.protocol import Member
from autocompress.tracking.report import Done, Report, Section, report_html, shares
from autocompress.wording import visible

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;{{ 7 * 7 }}\u202e\x1b[2J\ud800"
CELLS = ("4.4 KB", "392.7x", "0.9640", "0.9570", "0.0160", "7.02x (6.94-7.08)")


def report(text: str = "lenet", **changes: Any) -> Report:
    """A report of one recipe, of which every text is the given one."""
    metrics: Metrics = {"size_bytes": 4393.0, text: 0.964, "latency_ms": 0.016, "speedup": 7.0}
    metrics |= {"compression_ratio": 392.7, "latency_ms_low": 0.0158, "latency_ms_high": 0.0162}
    points = (Point(12, metrics, text, True, True), Point(3, metrics, text, False, False))
    baseline: Metrics = {"size_bytes": 1_725_550.0, text: 0.973, "latency_ms": 0.1124}
    limits = (Limit("size_bytes", "at_most", 16_000.0, text), Limit(text, "at_least", 0.963, text))
    section = Section(
        12, (text,), (text, text), (text,), ((text, "size", ""), (text, "4 KB", "-1%"), (text,)), (text, f"  {text}"),
        ((text, "1", "2"),), (Done(text, (text,)),), shares({text: 3.0}), (text, "autocompress show"),
    )  # fmt: skip
    values: dict[str, Any] = {
        "study": text, "quality": text, "budget": (text,), "verdict": (text,), "about": text,
        "heading": ("size", "smaller", text, text, "ms", "faster"), "baseline": CELLS,
        "members": (Member(12, (text,), CELLS),), "lines": (text,), "spent": shares({text: 1.0, "b": 3.0}),
        "phases": shares({text: 1.0}), "commands": (text, "autocompress ui"), "sections": (section,),
        "picture": Picture(text, text, points, baseline, limits),
    }  # fmt: skip
    return Report(**{**values, **changes})


class Page(HTMLParser):
    """What a browser makes of a page: elements with their attributes, texts, and the contents of scripts and styles."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inner: dict[str, list[str]] = {"script": [], "style": []}
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(data.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in self.inner:
            self.inner[tag].append("")
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open:
            self.inner[self._open[-1]][-1] += data
        else:
            self.text.append(data)

    def attributes(self, name: str) -> list[str]:
        return [str(attrs[name]) for _, attrs in self.elements if name in attrs]


@pytest.fixture(scope="module")
def evil() -> Page:
    return Page(report_html(report(EVIL)))


def test_no_text_becomes_part_of_the_page(evil: Page) -> None:
    plain = Page(report_html(report()))
    assert [tag for tag, _ in evil.elements] == [tag for tag, _ in plain.elements]
    known = [sorted(attrs) for _, attrs in plain.elements]
    assert [sorted(attrs) for _, attrs in evil.elements] == known
    assert not any(name.startswith("on") for names in known for name in names)
    shown = "".join(evil.text)
    assert visible(EVIL) in shown
    assert not {"\u202e", "\x1b", "\ud800"} & set(shown)
    assert "49" not in {line.strip() for line in evil.text}


def test_nothing_is_fetched_from_anywhere(evil: Page) -> None:
    assert all(address.startswith("#trial-") for address in evil.attributes("href"))
    assert [address[:22] for address in evil.attributes("src")] == ["data:image/png;base64,"]
    assert not evil.attributes("srcset")
    assert "link" not in {tag for tag, _ in evil.elements}
    assert "@import" not in evil.inner["style"][0]
    assert "url(" not in evil.inner["style"][0]


def test_the_policy_lets_nothing_run_but_the_page_s_own_scripts_and_style(evil: Page) -> None:
    (policy,) = (attrs["content"] for tag, attrs in evil.elements if attrs.get("http-equiv"))
    assert policy is not None
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split("; ")}

    def hashed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    data, plotly, script = evil.inner["script"]
    assert len(plotly) > 1_000_000
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == ["'none'"]
    assert rules["script-src"] == [hashed(plotly), hashed(script)]
    assert rules["style-src"] == [hashed(evil.inner["style"][0])]
    assert rules["img-src"] == ["data:", "blob:"]
    assert set(json.loads(data)) == {"quality", "speed"}
    # The policy stands before everything that it is about.
    tags = [tag for tag, _ in evil.elements]
    assert tags.index("meta") < tags.index("style") < tags.index("script")


def test_the_page_is_readable_without_script() -> None:
    page = Page(report_html(report()))
    shown = [text.strip() for text in page.text]
    for cell in (*CELLS, "autocompress show", "autocompress ui"):
        assert any(cell in text for text in shown), cell
    assert page.attributes("href") == ["#trial-12"]
    assert "trial-12" in page.attributes("id")
    (still,) = page.attributes("src")
    image = Image.open(io.BytesIO(base64.b64decode(still.partition(",")[2])))
    assert image.size == (880, 550)
    assert any(page.attributes("alt"))
    assert page.attributes("lang") == ["en"]
    assert page.attributes("value")[:2] == ["0.7500", "0.2500"]  # of 3 and 1 seconds
    # Lines of commands are lines.
    assert "lenet\nautocompress ui\n" in "".join(page.text)


def test_a_study_of_which_nothing_is_known_has_a_page() -> None:
    found = report(
        budget=(), members=(), sections=(), lines=(), spent=(), phases=(), commands=(), verdict=("no trials ended",),
        picture=Picture("lenet", "accuracy", (), {"size_bytes": 9.0, "accuracy": 0.9, "latency_ms": 1.0}, ()),
    )  # fmt: skip
    text = "".join(Page(report_html(found)).text)
    assert "no trials ended" in text
    assert "no limits" in text


def test_shares_add_up_and_nothing_has_none() -> None:
    rows = shares({"a": 1.0, "b": 3.0})
    assert [(row.name, row.seconds, row.share) for row in rows] == [("b", 3.0, 0.75), ("a", 1.0, 0.25)]
    assert shares({}) == shares({"a": 0.0}) == []
