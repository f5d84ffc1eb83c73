"""What is kept is made once, the newest of it alone, and nothing is no value."""

from autocompress.service.keeping import Kept


def test_a_value_is_made_once_until_newer_ones_take_its_place() -> None:
    kept, made = Kept(2), []

    def make(name: str) -> str | None:
        made.append(name)
        return name or None

    for name in ("a", "b", "a", "", "", "c"):
        assert kept.get(name, lambda name=name: make(name)) == (name or None)  # type: ignore[misc]
    assert made == ["a", "b", "", "", "c"]
    assert kept.get("a", lambda: make("a")) == "a"
    assert made[-1] == "a"
