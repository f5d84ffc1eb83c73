"""What is said of a user's data: what was left out, mapped or guessed."""


class Remarks:
    """Collects what was found, so that each kind is said once, with how often and where first."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[object, int]] = {}

    def add(self, text: str, where: object) -> None:
        """Note one case of what the text says."""
        first, count = self._found.get(text, (where, 0))
        self._found[text] = (first, count + 1)

    def lines(self) -> tuple[str, ...]:
        """Every kind in a line, in the order in which they were met."""
        return tuple(
            f"{text}: {first}" + (f" and {count - 1:,} more" if count > 1 else "")
            for text, (first, count) in self._found.items()
        )
