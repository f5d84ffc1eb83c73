"""Text of studies, recipes and files on its way to a terminal: all of it is shown, and none of it steers."""

import ast
import io
import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.table import Table
from tiny import Ran, make_project, run

from autocompress import terminal
from autocompress.outcome import Limit
from autocompress.terminal.details import trial_lines
from autocompress.terminal.ending import exit_code
from autocompress.terminal.options import _typeable
from autocompress.terminal.plain import Screen, plain, visible
from autocompress.terminal.views import LiveView, PlainView, front_table
from autocompress.wording import verdict_lines

# Clears the screen, sets the title, is a C1 control, turns the direction, ends a line, rings, and is half a character.
NASTY = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\r\n\b\u2028\ud800"
SPELT = r"\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\r\n\x08\u2028\ud800"
MARKUP = "[/] [link=http://evil]here[/link] [bold] :smile:"
EVIL = f"{MARKUP}{NASTY}"
SHOWN = f"{MARKUP}{SPELT}"


def printed(renderable: Any, **options: Any) -> str:
    out = io.StringIO()
    Screen(file=out, width=250, **options).print(renderable)
    return out.getvalue()


def harmless(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


def test_text_is_spelt_out_where_it_would_steer_and_left_alone_elsewhere() -> None:
    assert visible(NASTY) == SPELT
    assert visible(visible(NASTY)) == SPELT
    plain_words = "größe 模型 модель 👩\u200d🔬 می\u200cخواهم 5\u202f%"
    assert visible(plain_words) == plain_words


@pytest.mark.parametrize("terminal", [False, True])
def test_lines_cells_headings_and_titles_are_plain(terminal: bool) -> None:
    table = Table(EVIL, title=EVIL, caption=EVIL, title_style="", caption_style="", header_style="", footer_style="")
    table.add_column("b", footer=EVIL)
    table.show_footer = True
    table.add_row(EVIL, EVIL)
    text = printed(table, force_terminal=terminal, color_system=None)
    assert text.count(SHOWN) == 6
    assert harmless(text)
    assert printed(EVIL, force_terminal=terminal, color_system=None) == f"{SHOWN}\n"
    assert printed(plain(EVIL)) == f"{SHOWN}\n"


def test_a_cell_is_as_wide_as_what_is_shown_of_it() -> None:
    table = Table("a", "b", box=None)
    table.add_row("\x1b[2J", "!")
    table.add_row("four five six", "!")
    assert len({line.index("!") for line in printed(table).splitlines()[1:]}) == 1


def test_views_show_what_they_are_told() -> None:
    for view, out in ((PlainView, io.StringIO()), (LiveView, io.StringIO())):
        shown = view(Screen(file=out, width=250, force_terminal=view is LiveView, color_system=None))
        shown.phase(EVIL)
        shown.note(EVIL)
        shown.close()
        assert out.getvalue().count(SHOWN) >= 2
        assert not any(part in out.getvalue() for part in ("\x1b[2J", "\x1b]0", "\x9b", "\u202e", "\u2028"))


def test_tables_and_lines_of_a_study_are_plain_whatever_it_says() -> None:
    metrics = {"size_bytes": 1.0, EVIL: 0.5, f"test_{EVIL}": 0.5, "latency_ms": 1.0}
    recipe = {"version": 1, "steps": [{"technique": EVIL, EVIL: EVIL}]}
    row = {"trial": 0, "metrics": metrics, "recipe": recipe}
    text = printed(front_table(EVIL, [row], metrics, EVIL))
    document = {"verdict": "infeasible", "counts": {"completed": 0, "infeasible": 1, "stopped": 0, "failed": 0},
                "nearest_miss": row, "binding_limit": EVIL}  # fmt: skip
    lines = verdict_lines(document, [Limit(EVIL, "at_most", 1.0, EVIL)], EVIL)
    trial = {"trial": 0, "study": EVIL, "outcome": EVIL, "reason": EVIL, "metrics": metrics, "violations": {EVIL: 1.0},
             "seconds": {EVIL: 1.0}, "carried_out": recipe["steps"], "decisions": [{EVIL: {EVIL: EVIL}}]}  # fmt: skip
    for line in (*lines, *trial_lines(trial, metrics)):
        text += printed(line)
    assert SHOWN in text
    assert harmless(text)


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with a study that somebody else filled: its name, metrics and recipe are theirs."""
    folder = make_project(tmp_path_factory.mktemp("studied"))
    name, quality = f"{MARKUP}\x1b[2J\u202e", "[/]\x1b[31m"
    metrics = {"size_bytes": 10.0, quality: 0.5, "latency_ms": 1.0}
    study = optuna.create_study(
        storage=f"sqlite:///{folder}/autocompress.db", study_name=name, directions=["minimize", "maximize"]
    )
    for key, value in {"objectives": ["size_bytes", quality], "quality": quality, "baseline": metrics}.items():
        study.set_user_attr(key, value)
    trial = study.ask()
    trial.set_user_attr("recipe", {"version": 1, "steps": [{"technique": "svd\x1b[2J", "\x9bkey": "[/]\r"}]})
    trial.set_user_attr("outcome", {"type": "completed", "metrics": metrics, "violations": {}, "seconds": {}})
    study.tell(trial, [10.0, 0.5])
    return folder


NAME = f"{MARKUP}\x1b[2J\u202e"


def everything(ran: Ran) -> str:
    assert harmless(ran.out + ran.err), ran
    return ran.out + ran.err


def test_commands_print_no_control_character_of_a_stored_study(studied: Path) -> None:
    assert visible(NAME) in everything(run(studied, "list"))
    front = run(studied, "front", NAME)
    assert front.code == 0
    assert r"svd\x1b[2J" in everything(front)
    assert r"[/]\x1b[31m" in front.out
    assert r"\x9bkey" in everything(run(studied, "show", NAME, "0"))
    assert r"svd\x1b[2J" in everything(run(studied, "front", NAME, "--csv"))
    unknown = everything(run(studied, "front", "nobody\x1b[2J"))
    assert unknown.startswith("error: no study 'nobody\\x1b[2J' in ")


def test_json_says_what_is_stored_in_its_own_escapes(studied: Path) -> None:
    (row,) = run(studied, "list", "--json").json()
    assert row["study"] == NAME
    ran = run(studied, "front", NAME, "--json")
    assert harmless(ran.out)
    assert ran.out.isascii()
    assert json.loads(ran.out)["front"][0]["recipe"]["steps"][0]["technique"] == "svd\x1b[2J"


def test_usage_errors_and_config_errors_are_plain_too(tmp_path: Path) -> None:
    (tmp_path / "search.yaml").write_text('"bud\\e[2Jget": 1\nstudy: s\ntask: a.py:f\n')
    assert r"bud\x1b[2Jget" in everything(run(tmp_path, "search", "search.yaml"))
    for arguments in (("\x1b[2J",), ("list", "--\x1b[2J"), ("show", "s", "\x1b[2J"), ("verify", "\x1b[2J")):
        assert run(tmp_path, *arguments).code == 2
        everything(run(tmp_path, *arguments))


def test_a_config_is_printed_by_plan_as_it_is(tmp_path: Path) -> None:
    make_project(tmp_path, tracking={"uri": "http://127.0.0.1:1", "experiment": "[/] größe\x1b[2J"})
    planned = run(tmp_path, "plan", "search.yaml")
    assert planned.code == 0
    assert '"experiment": "[/] größe\\u001b[2J"' in everything(planned)


def test_completion_offers_what_can_be_typed() -> None:
    assert _typeable(["tiny", "ti\x1b[2J", "other"], "ti") == ["tiny"]


def test_a_full_disk_is_one_line_wherever_it_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        with open("/dev/full", "w") as file:
            file.write("x")

    assert exit_code(command) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "no space left on device: make room, and a search goes on from there with --resume" in err
    assert err.count("\n") == 1


ROOM = Path(terminal.__file__).parent


@pytest.mark.parametrize("path", sorted(ROOM.glob("*.py")), ids=lambda path: path.name)
def test_nothing_gets_past_the_screen(path: Path) -> None:
    tree = ast.parse(path.read_text())
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    if path.name != "plain.py":
        assert not {"Console", "Text", "print", "Text.from_markup"} & set(calls)
        assert not any(call.endswith(("stdout.write", "stderr.write")) for call in calls)
