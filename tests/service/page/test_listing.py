"""Where searches stand, in a list."""

from served import ADA, ANN, BOB
from signed import Site

from autocompress.service import events
from autocompress.service.page.listing import standings


def test_a_row_tells_progress_and_the_best_of_each_objective(site: Site) -> None:
    search = site.search("one", state="running", config_text="search: {trials: 12}", spent_s=61.0)
    rows = [{"trial": 3, "size_bytes": 4400.0, "accuracy": 0.96, "latency_ms": 0.016},
            {"trial": 5, "size_bytes": 9000.0, "accuracy": 0.98, "latency_ms": 0.014}]  # fmt: skip
    counts = {"completed": 4, "infeasible": 1, "stopped": 0, "failed": 1}
    with site.parts.database.transaction() as session:
        for front in ({"verdict": "infeasible", "front": [], "counts": {"completed": 0}},
                      {"verdict": "feasible", "front": rows, "counts": counts}):  # fmt: skip
            events.append(session, search.id, "front", front)
    (row,) = standings(site.parts, [site.parts.queue.find(ANN, "one")])
    assert (row.ended, row.target, row.share, row.members) == (6, 12, 0.5, 2)
    assert row.best == "4.4 KB, accuracy 0.9800, 0.014 ms"
    assert row.tally == "4 completed, 1 infeasible, 1 failed"
    assert row.requests == ["pause"]
    page = site.text("/")
    assert '<progress max="12" value="6"' in page
    assert "1:01" in page
    assert f'data-live="/events?after={search.events + 2}"' in page


def test_a_search_that_waits_may_do_anything_but_be_resumed(site: Site) -> None:
    (row,) = standings(site.parts, [site.search("one")])
    assert (row.ended, row.target, row.requests, row.cancellable, row.over) == (0, 40, ["pause"], True, False)


def test_the_list_is_of_one_state_and_has_pages(site: Site) -> None:
    for index in range(52):
        site.search(f"s{index}", state="paused" if index == 7 else "queued")
    first = site.text("/")
    assert first.count('<th scope="row">') == 50
    older = first.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0]
    assert site.text(older).count('<th scope="row">') == 2
    paused = site.text("/?state=paused")
    assert "/searches/s7" in paused
    assert paused.count('<th scope="row">') == 1
    assert "No search is failed" in site.text("/?state=failed")
    assert site.text("/?state=") == first


def test_what_happens_to_ones_searches_is_counted_and_nothing_else(site: Site) -> None:
    site.search("one")
    site.search("two", BOB)
    topics = [events.topic(person) for person in (ANN, BOB, ADA)]
    before = events.newest(site.parts.database, topics)
    assert [before[topic] for topic in topics] == [1, 1, 2]
    site.ask("POST", "/searches/one/pause")
    after = events.newest(site.parts.database, topics)
    assert [after[topic] for topic in topics] == [2, 1, 3]
    assert events.newest(site.parts.database, ["@nobody"]) == {"@nobody": 0}
