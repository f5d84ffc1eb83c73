"""What is kept is made once a version, for the newest keys alone, and nothing is no value."""

import threading

from autocompress.service.keeping import Kept


def test_a_value_is_made_once_a_version_and_for_few_keys() -> None:
    kept, made = Kept(2), []

    def get(key: str, version: int) -> str | None:
        def make() -> str | None:
            made.append(f"{key}{version}")
            return made[-1] if key else None

        return kept.get(key, version, make)

    assert [get(*asked) for asked in (("a", 1), ("b", 1), ("a", 1), ("a", 2), ("a", 2))] == [
        "a1",
        "b1",
        "a1",
        "a2",
        "a2",
    ]
    assert made == ["a1", "b1", "a2"]
    assert [get("", 1), get("", 1)] == [None, None]  # which takes the place of b
    assert (get("a", 2), get("b", 1)) == ("a2", "b1")
    assert made == ["a1", "b1", "a2", "1", "1", "b1"]


def test_many_who_ask_at_once_wait_for_one_and_an_error_is_nobody_elses() -> None:
    kept, made, asking = Kept(2), [], threading.Barrier(8)
    found: list[int] = []

    def make() -> int:
        made.append(len(made))
        if len(made) == 1:
            raise ValueError("the first fails")
        return 7

    def ask() -> None:
        asking.wait()
        try:
            found.append(kept.get("a", 1, make))
        except ValueError:
            found.append(-1)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [-1, *[7] * 7]
    assert made == [0, 1]
