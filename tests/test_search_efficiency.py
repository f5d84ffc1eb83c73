"""Searches are compared by what the report's arithmetic says, and each contender lacks what it is said to lack."""

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autocompress.config import Budget
from autocompress.executors import InlineExecutor
from autocompress.outcome import Failed, Limit
from autocompress.search.controller import Controller, sampler_of
from autocompress.search.facts_first import FactsFirst, distributions
from autocompress.search.interrupts import Interrupts
from autocompress.search.space import Space
from autocompress.search.space_file import find_space, load_space
from autocompress.trial.run import Run

FOLDER = Path(__file__).parents[1] / "experiments" / "search_efficiency"
LIMITS = np.array([math.log(1000), 0.1, 0.0])  # 1,000 bytes, a tenth of accuracy, as fast as before
BUDGET = {"size": "100 KB", "accuracy_drop": 0.9, "speedup": 0.01}
NAMES = ("contenders", "report", "run", "search")


@pytest.fixture(scope="module")
def scripts() -> Iterator[Any]:
    """The experiment's scripts, imported by their plain names as they import one another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        for name in NAMES:
            patch.delitem(sys.modules, name, raising=False)
        import report  # type: ignore[import-not-found]
        import run  # type: ignore[import-not-found]
        import search  # type: ignore[import-not-found]

        yield report, run, search
        for name in NAMES:
            patch.delitem(sys.modules, name)


@pytest.fixture(scope="module")
def report(scripts: Any) -> Any:
    return scripts[0]


@pytest.fixture(scope="module")
def run(scripts: Any) -> Any:
    return scripts[1]


@pytest.fixture(scope="module")
def search(scripts: Any) -> Any:
    return scripts[2]


def trial(case: str, number: int, cpu: float, size: float, accuracy: float, outcome: str = "completed") -> dict:
    """A row of a trial as fast as the uncompressed model."""
    row = {"case": case, "study": "lenet5", "seed": 0, "budget_seconds": 100.0, "trial": number, "cpu_seconds": cpu}
    return {**row, "outcome": outcome, "size_bytes": size, "accuracy": accuracy, "speedup": 1.0}


def end(case: str, cpu: float = 100.0, budget: float = 100.0) -> dict:
    row = {"case": case, "study": "lenet5", "seed": 0, "budget_seconds": budget}
    return {**row, "cpu_seconds": cpu, "outcome": "end"}


def table(*rows: dict) -> pd.DataFrame:
    base = {"case": "baseline", "study": "lenet5", "seed": 0, "size_bytes": 1e6, "accuracy": 0.9, "speedup": 1.0}
    return pd.DataFrame([base, *rows])


# Of what counts the smallest has 10 bytes, and the best loses nothing; all are as fast, so that speed tells nothing.
ROWS = table(
    trial("TPE", 0, 20, 100, 0.85),
    trial("TPE", 1, 30, 5, 0.95, "infeasible"),
    trial("TPE", 2, 50, 100, 0.90),
    trial("TPE", 3, 90, 100, 0.88),
    end("TPE"),
    trial("ours", 0, 10, 100, 0.90),
    trial("ours", 1, 60, 10, 0.90),
    trial("ours", 2, 101, 1, 0.99),
    end("ours", 101.0),
    trial("random", 0, 10, 1, 0.9),
)


def test_hypervolume_is_the_share_of_the_box_up_to_the_reference(report: Any) -> None:
    assert report.hypervolume(np.zeros((1, 3))) == pytest.approx(1.0)
    assert report.hypervolume(np.array([[0.55, 0.0, 0.0]])) == pytest.approx(0.5)
    # Half of the box each, and a quarter of it both.
    assert report.hypervolume(np.array([[0.55, 0.0], [0.0, 0.55]])) == pytest.approx(0.75)
    assert report.hypervolume(np.array([[1.2, 0.0], [0.0, 1.1]])) == 0.0
    assert report.hypervolume(np.zeros((0, 3))) == 0.0


@given(points=arrays.arrays(float, st.tuples(st.integers(1, 6), st.just(3)), elements=st.floats(0, 1.5)))
def test_more_points_never_dominate_less(report: Any, points: np.ndarray) -> None:
    values = [report.hypervolume(points[: count + 1]) for count in range(len(points))]
    assert all(0 <= value <= 1 + 1e-9 for value in values)
    assert all(before <= after + 1e-12 for before, after in pairwise(values))


def test_costs_are_scaled_from_the_best_to_the_limit(report: Any) -> None:
    rows = pd.DataFrame([trial("TPE", 0, 1, 100, 0.85)])
    found = report.costs(rows, {0: 0.9})
    best = np.array([math.log(10), 0.0, -1.0])
    assert report.scaled(found, best, LIMITS)[0] == pytest.approx([0.5, 0.5, 1.0])


def test_speedups_are_taken_in_steps_of_a_tenth_of_their_logarithm(report: Any) -> None:
    found = report.slowness(np.exp([0.0, 0.04, 0.06, 0.14, 1.0]))
    assert found == pytest.approx([0.0, 0.0, -0.1, -0.1, -1.0])


def test_a_budget_without_one_of_the_limits_is_refused(report: Any) -> None:
    assert report.worst(Budget(size_bytes=1000, accuracy_drop=0.1, speedup=1.0)) == pytest.approx(LIMITS)
    with pytest.raises(ValueError, match="must limit size, accuracy_drop and speedup"):
        report.worst(Budget(size_bytes=1000))


def test_a_curve_counts_what_is_feasible_and_ended_within_the_budget(report: Any) -> None:
    found = report.curves(ROWS, LIMITS)
    assert set(found) == {("TPE", 0), ("ours", 0)}  # random did not end
    # Half of the way to the best in size and half in accuracy, of a box with sides of 1.1; then all of accuracy.
    first, second = 0.6 * 0.6 / 1.1**2, 0.6 / 1.1
    assert found["TPE", 0].values == pytest.approx([first, first, second, second])
    assert found["ours", 0].values == pytest.approx([second, 1.0])  # what ended after 101 seconds sets no scale
    assert list(found["ours", 0].seconds) == [10, 60]


def test_shares_are_of_the_other_s_budget_or_of_the_time_at_which_it_stood_there(report: Any) -> None:
    found = report.curves(ROWS, LIMITS)
    assert report.shares(found, "ours", "TPE") == [0.1]
    assert report.shares(found, "ours", "TPE", own_time=True) == [10 / 50]
    assert report.shares(found, "TPE", "ours") == [math.inf]
    assert report.shares(found, "ours", "ours") == [0.6]
    assert report.higher(found, "ours", "TPE") == "1 of 1"


def test_where_another_found_nothing_its_hypervolume_is_reached_with_the_first_that_is_feasible(report: Any) -> None:
    ours = report.Curve(np.array([5.0, 8.0, 9.0]), np.array([0.0, 0.2, 0.2]), 10.0)
    none = report.Curve(np.array([4.0]), np.array([0.0]), 10.0)
    assert report.shares({("ours", 3): ours, ("TPE", 3): none}, "ours", "TPE") == [0.8]
    assert none.reached(0.0) == math.inf


def test_a_curve_is_constant_between_trials(report: Any) -> None:
    curve = report.Curve(np.array([5.0, 8.0]), np.array([0.1, 0.2]), 10.0)
    assert list(curve.at(np.array([0.0, 4.9, 5.0, 7.9, 8.0, 10.0]))) == [0.0, 0.0, 0.1, 0.1, 0.2, 0.2]


def test_of_several_budgets_the_largest_counts(report: Any) -> None:
    short = {**trial("TPE", 0, 5, 1, 0.99), "budget_seconds": 50.0}
    assert report.curves(pd.concat([ROWS, table(short, end("TPE", 50, 50.0)).iloc[1:]]), LIMITS).keys() == {
        ("TPE", 0),
        ("ours", 0),
    }


def test_shares_read_as_fractions(report: Any) -> None:
    assert report.share(0.125) == "1/8"
    assert report.share(math.inf) == "never"
    assert report.share(2.5) == "2.5x"
    assert report.share(0.0) == "it found nothing"
    assert report.interval([0.5, 0.1, math.inf], report.share) == "**1/2** (1/10 to never)"
    assert report.interval([math.inf, 0.1], report.share) == "**never** (1/10 to never)"
    assert report.interval([0.1, 0.1], report.share) == "**1/10**"
    assert report.interval([0.25, 0.75, 0.5]) == "**0.500** (0.250 to 0.750)"
    assert report.interval([]) == "-"


def test_the_figure_is_small(report: Any, tmp_path: Path) -> None:
    found = report.curves(ROWS, LIMITS)
    report.draw({"lenet5": found, "resnet20": found}, tmp_path / "curves.png")
    assert 10_000 < (tmp_path / "curves.png").stat().st_size < 200_000


def test_a_goal_is_met_in_every_seed_or_not_at_all(report: Any) -> None:
    text = report.goals(report.curves(ROWS, LIMITS))
    assert "| TPE's in 1/10 | yes: 1 of 1 | 1/10 | 1/5 |" in text
    later = ROWS.assign(cpu_seconds=ROWS["cpu_seconds"].where(ROWS["cpu_seconds"] != 10, 11))
    assert "| TPE's in 1/10 | no: 0 of 1 |" in report.goals(report.curves(later, LIMITS))


def test_the_readme_holds_the_tables_of_the_results(report: Any) -> None:
    shown = (FOLDER / "README.md").read_text().split(report.START)[1].split(report.STOP)[0]
    if not report.RESULTS.exists():
        assert "No search is finished yet." in shown
        return
    rows = report.read(report.RESULTS)
    for study in rows["study"].unique():
        assert report.table(rows, study) in shown or not report.found_in(rows, study)


def test_a_search_is_finished_by_its_last_row_with_the_budget_that_is_asked_for(run: Any) -> None:
    def of(case: str, seconds: float = 100.0, seed: int = 0) -> bool:
        return run.finished(ROWS, run.Job("lenet5", case, seed, seconds))

    assert [of("TPE"), of("ours"), of("baseline")] == [True, True, True]
    assert [of("TPE", 200.0), of("TPE", seed=1), of("random"), of("baseline", seed=1)] == [False] * 4


def test_what_is_to_run_again_leaves_the_table_and_the_rest_stays(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    run.clear(path, [])
    assert path.read_text().strip() == ",".join(run.COLUMNS)
    ROWS.reindex(columns=run.COLUMNS).to_csv(path, index=False)
    run.clear(path, [run.Job("lenet5", "random", 0, 100.0)])
    kept = run.read(path)
    assert len(kept) == len(ROWS) - 1
    assert "random" not in set(kept["case"])


def test_a_table_with_another_baseline_is_not_gone_on_with(search: Any, tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    ROWS.reindex(columns=search.COLUMNS).to_csv(path, index=False)
    search.check_baseline(path, "lenet5", 0, 0.9)
    with pytest.raises(SystemExit, match="seed 0, is another"):
        search.check_baseline(path, "lenet5", 0, 0.91)
    with pytest.raises(SystemExit, match="seed 1, is another"):
        search.check_baseline(path, "lenet5", 1, 0.9)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task of one layer, and the baseline once a search planned one."""
    return tiny.make_project(tmp_path_factory.mktemp("searches"), budget=BUDGET)


def searched(search: Any, project: Path, case: str, seconds: float) -> pd.DataFrame:
    """The rows of one search on the tiny task."""
    path = project / f"{case}.csv"
    path.write_text(",".join(search.COLUMNS) + "\n")
    plan = search.planned("tiny", case, 0, project, project / "search.yaml")
    head = {"case": case, "study": "tiny", "seed": 0, "budget_seconds": seconds}
    search.search(search.CONTENDERS[case], plan, head, path)
    return pd.read_csv(path)


@pytest.mark.parametrize("case", ["ours", "TPE"])
def test_a_search_writes_a_row_for_each_trial_and_one_at_its_end(search: Any, project: Path, case: str) -> None:
    rows = searched(search, project, case, 1000.0)
    assert list(rows.columns) == search.COLUMNS
    assert list(rows["outcome"]) == ["completed"] * 3 + ["end"]
    assert list(rows["trial"][:3]) == [0, 1, 2]
    assert (rows["cpu_seconds"].diff()[1:] > 0).all()
    assert rows["cpu_seconds"].iloc[0] > 0.1  # a file is exported and timed, by what the system counted
    assert (rows["hypervolume"][:3].diff()[1:] >= 0).all()
    assert rows["hypervolume"].iloc[0] > 0
    assert (rows["size_bytes"][:3] > 100).all()
    assert set(rows["case"]) == {case}


def test_a_search_ends_with_the_trial_that_uses_up_its_seconds(search: Any, project: Path) -> None:
    rows = searched(search, project, "random", 0.05)
    assert list(rows["outcome"]) == ["completed", "end"]


def test_contenders_ask_by_the_sampler_they_are_named_for(search: Any, project: Path) -> None:
    kinds = {}
    for case, contender in search.CONTENDERS.items():
        plan = search.planned("tiny", case, 0, project, project / "search.yaml")
        store = search.Store(plan, contender)
        store.use_sampler(sampler_of(plan, 0, []))
        kinds[case] = type(store._study.sampler)
    assert {kind.__name__ for kind in kinds.values()} == {
        "RandomSampler", "NSGAIISampler", "GPSampler", "TPESampler", "FactsFirst"
    }  # fmt: skip
    assert all((kind is FactsFirst) == (case == "ours" or "without" in case) for case, kind in kinds.items())


def test_searches_know_nothing_of_others_and_nothing_but_cpu_seconds_ends_them(search: Any, project: Path) -> None:
    tiny.configure(project / "timed.yaml", search={"trials": 3, "timeout": "1s"}, budget=BUDGET)
    config = search.configured("tiny", "TPE", 5, project, project / "timed.yaml")
    assert config.search.cold
    assert config.search.timeout is None
    assert (config.search.workers, config.search.seed, config.search.sampler) == (1, 5, "random")
    assert config.tracking is None
    assert search.configured("lenet5", "ours", 5, project).search.trials == 2000
    assert search.configured("tiny", "ours", 5, project, project / "timed.yaml").search.sampler == "auto"


def test_a_bench_without_facts_looks_at_nothing_ahead_and_holds_facts_against_the_finished_file(
    search: Any, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = search.planned("tiny", "without facts", 0, project, project / "search.yaml")
    recipe = plan.setup.space.recipe(a_row(plan.setup.space))
    limits = (Limit("size_bytes", "at_most", 1.0, "size"), Limit("accuracy", "at_least", 0.0, "accuracy"))
    given_to: list[Any] = []
    made = search.prepare
    monkeypatch.setattr(search, "prepare", lambda spec, base: given_to.append(spec) or made(spec, base))
    bench = search.Workbench(search.CONTENDERS["without facts"], project / "stages")
    bench.share(plan.baseline)
    bench.submit(plan.setup.facts(-1, recipe))
    assert isinstance(bench.finished(0)[0].outcome, Failed)
    assert given_to == []
    bench.submit(plan.setup.trial(0, recipe, limits))
    (finished,) = bench.finished(0)
    assert [limit.label for limit in given_to[0].limits] == ["accuracy"]
    assert finished.outcome.type == "infeasible"
    assert "latency_ms" in finished.outcome.metrics  # measured in full, and then past the limit


def a_row(space: Space) -> dict[str, Any]:
    """The first value of each parameter."""
    return {name: getattr(d, "low", None) or d.choices[0] for name, d in distributions(space).items()}


def test_stages_are_kept_for_those_alone_that_have_them(
    search: Any, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = {}
    for case, contender in search.CONTENDERS.items():
        if contender.known:
            taken: list[Any] = []
            monkeypatch.setattr(InlineExecutor, "submit", lambda self, spec, taken=taken: taken.append(spec))
            plan = search.planned("tiny", case, 0, project, project / "search.yaml")
            recipe = plan.setup.space.recipe(a_row(plan.setup.space))
            search.Workbench(contender, project / case).submit(plan.setup.trial(0, recipe))
            caches[case] = taken[0].cache
    assert caches.pop("without stages") is None
    assert caches == {case: str(project / case) for case in caches}


def test_a_space_without_stages_never_counts_one_as_trained(search: Any, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(
        "version: 1\nsteps:\n  - {technique: finetune, epochs: {low: 1, high: 9}}\n  - one_of: [float16, none]\n"
    )
    space = load_space(tmp_path / "space.yaml")
    fresh = search.Uncached(**vars(space))
    row = a_row(space)
    (first,), (second,) = fresh.stages(row), fresh.stages(row)
    assert space.stages(row) == space.stages(row)
    assert first[0] != second[0]
    assert first[1] == second[1] == space.stages(row)[0][1]


def test_collapsed_models_are_trained_only_where_nothing_is_known_before(search: Any) -> None:
    before = Run.screen
    with search.trained_anyway(search.CONTENDERS["TPE"]):
        assert Run.screen(object(), 0, object()) is None  # type: ignore[arg-type]
    with search.trained_anyway(search.CONTENDERS["ours"]):
        assert Run.screen is before
    assert Run.screen is before


def test_a_search_without_first_rows_begins_with_none(search: Any, project: Path) -> None:
    hybrid = load_space(find_space("hybrid", project))  # which can say the portfolio's recipes
    first = {}
    for case, contender in search.CONTENDERS.items():
        if contender.plain is None:
            plan = search.planned("tiny", case, 0, project, project / "search.yaml")
            plan = replace(plan, setup=replace(plan.setup, space=hybrid))
            store = search.Store(plan, contender)
            first[case] = Controller(plan, store, InlineExecutor(), Interrupts(), [], print)._first()
    assert first.pop("without first rows") == []
    assert all(len(rows) >= 5 for rows in first.values())
