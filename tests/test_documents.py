"""YAML as configs, spaces and recipes are written in it: plain values, and errors that say where."""

import math
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from autocompress.documents import MAX_NODES, Document, parse_yaml, read_yaml, validate
from autocompress.errors import ConfigError


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    trials: int = Field(1, ge=1)
    names: list[str] = []


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    study: str
    task: str | dict[str, int] = "task.py:f"
    search: Inner = Inner()


def refused(text: str) -> str:
    """The message with which a text is refused: one line."""
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "some.yaml")
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith("some.yaml")
    return message


def invalid(text: str) -> str:
    """The message with which a model refuses a text that is good YAML: one line."""
    with pytest.raises(ConfigError) as caught:
        validate(Outer, parse_yaml(text, "some.yaml"))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("-2.5e+2", -250.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("12", 12),
        ("+12", 12),
        ("-12", -12),
        ("010", 10),
        ("08", 8),
        ("-09", -9),
        ("0", 0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
def test_plain_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    found = parse_yaml(f"key: {text}\n", "some.yaml").data["key"]
    assert found == value
    assert type(found) is type(value)


def test_nan_is_a_number() -> None:
    assert math.isnan(parse_yaml("key: .nan", "some.yaml").data["key"])


@pytest.mark.parametrize(
    "word", ["no", "yes", "on", "off", "y", "n", "No", "OFF", "1_000", "1:30", "60 KB", "2024-01-01", "e3", ".", "1e"]
)
def test_words_that_yaml_1_1_took_for_something_else_stay_words(word: str) -> None:
    assert parse_yaml(f"key: {word}", "some.yaml").data == {"key": word}


def test_a_word_that_yaml_1_1_took_for_true_can_be_a_key() -> None:
    assert parse_yaml("on: 1\nno: 2", "some.yaml").data == {"on": 1, "no": 2}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(string.printable, max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.from_regex("[a-z]{1,6}", fullmatch=True), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.from_regex("[a-z]{1,6}", fullmatch=True), VALUES, max_size=5))
def test_mappings_with_quoted_strings_come_back_as_they_were(data: dict[str, object]) -> None:
    text = yaml.safe_dump(data, default_style='"', default_flow_style=True) if data else "{}"
    assert parse_yaml(text, "some.yaml").data == data


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "in:\n  b: 1\n  b: 1\n", "- {c: 1,\n\n   c: 2}\n"])
def test_a_key_that_stands_twice_is_refused_with_the_second_line(text: str) -> None:
    message = refused(text)
    assert message.startswith("some.yaml:3")
    assert "stands twice: keep one" in message


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object:os.system {}",
        "!!python/object/apply:os.system ['true']",
        "!!python/name:os.system ''",
        "!!python/tuple [1]",
        "!local thing",
        "!<tag:example.org,2000:thing> thing",
        "!!binary aGk=",
        "!!set {a, b}",
        "!!timestamp 2024-01-01",
    ],
)
def test_tags_for_anything_but_plain_values_are_refused(value: str) -> None:
    message = refused(f"fine: 1\nkey: {value}\n")
    assert message.startswith("some.yaml:2: ")
    assert "plain values" in message


def test_a_python_tag_runs_nothing(tmp_path: Path) -> None:
    made = tmp_path / "made"
    refused(f"key: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{made}']]")
    assert not made.exists()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("!!int abc", "invalid literal for int"),
        ("!!float abc", "could not convert string to float"),
        ("!!bool maybe", "maybe"),
        ("!!int [1]", "expected a scalar node"),
        ("9" * 5000, "Exceeds the limit"),
    ],
)
def test_a_value_that_its_tag_cannot_hold_is_refused(value: str, why: str) -> None:
    assert why in refused(f"key: {value}")


def test_an_alias_bomb_is_refused() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]  # 10^12 values in 12 lines
    assert "aliases unfold to more than" in refused("\n".join(rows))


def test_an_alias_that_holds_itself_is_refused() -> None:
    assert "nested too deeply" in refused("a: &a {b: *a}")


def test_deep_nesting_is_refused() -> None:
    assert "nested too deeply" in refused("a: " + "[" * 5000 + "]" * 5000)


def test_modest_aliases_work() -> None:
    text = "base: &base {low: 1, high: 2}\nfirst: *base\nsecond: [*base, *base]\n"
    span = {"low": 1, "high": 2}
    assert parse_yaml(text, "some.yaml").data == {"base": span, "first": span, "second": [span, span]}


def test_as_many_values_as_the_cap_says_are_read() -> None:
    # The mapping and its list count too.
    assert len(parse_yaml(f"a: [{'1, ' * (MAX_NODES - 2)}]", "some.yaml").data["a"]) == MAX_NODES - 2
    assert str(MAX_NODES) in refused(f"a: [{'1, ' * (MAX_NODES - 1)}]")


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n"])
def test_an_empty_document_is_refused(text: str) -> None:
    message = refused(text)
    assert "write a mapping" in message


@pytest.mark.parametrize(("text", "kind"), [("- a\n- b", "list"), ("word", "str"), ("3", "int")])
def test_a_document_that_is_no_mapping_is_refused(text: str, kind: str) -> None:
    assert f"holds a {kind}: write a mapping" in refused(text)


@pytest.mark.parametrize("key", ["5", "1.5", "true", "null", "[a, b]", "{a: b}"])
def test_a_key_that_is_no_word_is_refused(key: str) -> None:
    message = refused(f"fine: 1\n? {key}\n: 1\n")
    assert message.startswith("some.yaml:2: ")
    assert "a key must be a word" in message


@pytest.mark.parametrize(("text", "line"), [("a: 1\nb: [1, 2\nc: 3\n", 3), ("a: 1\n\tb: 2\n", 2), ("a: 'x\n", 2)])
def test_broken_yaml_is_refused_with_its_line(text: str, line: int) -> None:
    assert refused(text).startswith(f"some.yaml:{line}: is not plain YAML: ")


def test_two_documents_in_one_file_are_refused() -> None:
    assert refused("a: 1\n---\nb: 2\n") == "some.yaml:2: is not plain YAML: but found another document"


def test_control_characters_are_refused() -> None:
    assert "special characters are not allowed" in refused("a: \x00\n")


def test_lines_of_keys_and_list_entries_are_known() -> None:
    document = parse_yaml("a: 1\nb:\n  c:\n    - x\n    - {d: 2}\n", "some.yaml")
    assert document.place(("a",)) == "some.yaml:1: a"
    assert document.place(("b", "c")) == "some.yaml:3: b.c"
    assert document.place(("b", "c", 1)) == "some.yaml:5: b.c.1"
    assert document.place(("b", "c", 1, "d")) == "some.yaml:5: b.c.1.d"
    assert document.place(("b", "missing")) == "some.yaml:2: b.missing"


def test_a_document_without_lines_still_names_the_key() -> None:
    assert Document("somewhere", {}).place(("a", 0)) == "somewhere: a.0"


def test_an_unknown_key_is_refused_with_the_nearest_one() -> None:
    message = invalid("study: s\nsearch:\n  trails: 3\n")
    assert message == "some.yaml:3: search.trails: unknown key; did you mean 'trials'?"


def test_an_unknown_key_with_nothing_near_is_refused_with_all_of_them() -> None:
    message = invalid("study: s\nqqqq: 3\n")
    assert message == "some.yaml:2: qqqq: unknown key; known: search, study, task"


@pytest.mark.parametrize("key", ["Search", "my-key", "two words", "9lives"])
def test_an_unknown_key_is_named_whatever_it_looks_like(key: str) -> None:
    assert invalid(f"study: s\n{key}: 3\n").startswith(f"some.yaml:2: {key}: unknown key; ")


def test_a_missing_key_is_asked_for() -> None:
    assert invalid("task: x\n") == "some.yaml:1: study: this key is required: add it"


def test_a_wrong_value_is_shown_with_key_line_and_rule() -> None:
    message = invalid("study: s\nsearch:\n\n  trials: 0\n")
    assert message == "some.yaml:4: search.trials: 0: input should be greater than or equal to 1"


def test_a_wrong_list_entry_is_named_by_its_position() -> None:
    assert invalid("study: s\nsearch:\n  names:\n    - a\n    - 5\n").startswith("some.yaml:5: search.names.1: 5: ")


def test_the_names_of_alternatives_do_not_enter_the_key() -> None:
    assert invalid("study: s\ntask: 5\n").startswith("some.yaml:2: task: 5: ")


def test_further_problems_are_counted() -> None:
    assert invalid("study: s\nother: 1\nmore: 2\nsearch: {trials: x}\n").endswith("(and 2 more)")


def test_a_long_value_is_shortened() -> None:
    assert len(invalid(f"study: s\nsearch: {'x' * 1000}\n")) < 200


def test_a_part_of_a_document_can_be_checked_with_its_lines() -> None:
    document = parse_yaml("other: 1\nsearch:\n  trials: -1\n", "some.yaml")
    with pytest.raises(ConfigError, match=r"^some\.yaml:3: search\.trials: -1: "):
        validate(Inner, document, ("search",))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file: check the path"):
        read_yaml(tmp_path / "missing.yaml")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder: name the YAML file in it"):
        read_yaml(tmp_path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bytes.yaml"
    path.write_bytes(b"a: \xff\xfe\n")
    with pytest.raises(ConfigError, match="cannot be read as UTF-8 text") as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
