"""The table of recipes is what its script measures, and searches against it repeat and pay what they should."""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "experiments" / "recipe_table"
NAMES = ("table", "clock", "contenders", "report", "run")


@pytest.fixture(scope="module")
def experiment() -> Iterator[SimpleNamespace]:
    """The experiment's modules, which import each other by their plain names."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield SimpleNamespace(**{name: __import__(name) for name in NAMES})
    finally:
        sys.path.remove(str(FOLDER))
        for name in NAMES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module", params=["mlp", "cnn"])
def truth(request: pytest.FixtureRequest, experiment: SimpleNamespace):
    return experiment.clock.Truth.load(request.param)


def test_the_table_holds_every_recipe_of_its_space_once(truth, experiment: SimpleNamespace) -> None:
    rows = experiment.table.rows_of(truth.space)
    assert {truth.key(row) for row in rows} == truth.index.keys()
    assert len(truth.lines) == len(rows) == truth.space.count()
    assert len({truth.space.recipe(row).fingerprint for row in rows}) == len(rows)


def test_lines_of_the_table_are_what_their_recipes_come_to(truth, experiment: SimpleNamespace) -> None:
    table: ModuleType = experiment.table
    lines = truth.lines.iloc[[7, 1900]]
    rows = [table.choices(line, truth.space) for line in lines.to_dict("records")]
    found = table.measured(truth.task, rows, truth.space).iloc[1:]
    np.testing.assert_allclose(found["latency_ms"], lines["latency_ms"], rtol=1e-5)
    # The noise is drawn by a digest of the recipe, which techniques that gain settings change.
    for rows_of in (found, lines):
        off = np.log(rows_of["facts_latency_ms"].to_numpy() / rows_of["latency_ms"].to_numpy())
        assert (np.abs(off) < 4 * table.SPEED_NOISE).all()
    # Another processor rounds other sums, which training enlarges, and other digests draw other batches. Files have
    # learned to share blocks of weights since, which takes up to an eighth off them.
    for name in ("size_bytes", "facts_size_bytes"):
        assert found[name].to_numpy() / lines[name].to_numpy() == pytest.approx(0.95, abs=0.09)
    np.testing.assert_allclose(found["accuracy"], lines["accuracy"], atol=0.06)


def test_a_search_repeats(truth, experiment: SimpleNamespace) -> None:
    contender = experiment.contenders.CONTENDERS["ours, 8 workers"]

    def searched(seed: int):
        return experiment.run.run(truth, contender, seed, trials=12)

    one, same, other = searched(1), searched(1), searched(2)
    assert (one.cpu, one.wall, one.share) == (same.cpu, same.wall, same.share)
    assert one.cpu != other.cpu


def test_one_worker_that_keeps_nothing_pays_for_all_that_its_trials_do(truth, experiment: SimpleNamespace) -> None:
    clock, random = experiment.clock, experiment.contenders.CONTENDERS["random"]
    search = clock.Search(truth, random.make(truth, 0), random.rules, 0)
    progress = search.run(30, 2.0)
    lines = [truth.index[key] for key in search._asked]
    trained = [clock.TRAINING * (line["first_seconds"] + line["second_seconds"]) for line in lines]
    rest = [line["file_seconds"] + clock.TIMING for line in lines]
    assert progress.cpu == pytest.approx(list(itertools.accumulate(np.add(trained, rest))))
    assert progress.wall == pytest.approx(progress.cpu)


def test_kept_stages_are_paid_for_once_whatever_the_number_of_workers(truth, experiment: SimpleNamespace) -> None:
    clock, random = experiment.clock, experiment.contenders.CONTENDERS["random"]
    ends = []
    for workers in (1, 8):
        rules = clock.Rules(cache=True, rejects=False, workers=workers)
        search = clock.Search(truth, random.make(truth, 0), rules, 0)
        progress = search.run(60, 2.0)
        assert len(search._asked) == 60
        stages: dict[str, float] = {}
        rest = 0.0
        for key, line in ((key, truth.index[key]) for key in search._asked):
            recipe = truth.space.recipe(experiment.table.choices(dict.fromkeys(row_names(truth), np.nan) | dict(key),
                                                                 truth.space))  # fmt: skip
            stages |= dict(clock._stages(recipe, line))
            rest += line["file_seconds"] + clock.TIMING
        assert progress.cpu[-1] == pytest.approx(sum(stages.values()) + rest)
        ends.append(progress.wall[-1])
    assert ends[0] / 8 <= ends[1] < ends[0]


def row_names(truth) -> list[str]:
    return [name for name in truth.lines if name in truth.space.parameters()]


def test_facts_are_paid_for_where_something_is_left_to_train(truth, experiment: SimpleNamespace) -> None:
    clock, random = experiment.clock, experiment.contenders.CONTENDERS["random"]
    search = clock.Search(truth, random.make(truth, 0), clock.Rules(), 0)
    progress = search.run(80, 2.0)
    trained: set[object] = set()
    spent, rejected, leaves = 0.0, 0, 0
    for key, line in ((key, truth.index[key]) for key in search._asked):
        row = experiment.table.choices(dict.fromkeys(row_names(truth), np.nan) | dict(key), truth.space)
        stages = dict(clock._stages(truth.space.recipe(row), line))
        left = stages.keys() - trained
        leaves += not left
        if left:
            spent += line["facts_seconds"] + clock.BURSTS_SECONDS
        if "accuracy" not in search._told[key][1].metrics:
            rejected += 1
            continue
        trained |= left
        spent += sum(stages[name] for name in left) + line["file_seconds"] + clock.TIMING
    assert progress.cpu[-1] == pytest.approx(spent)
    assert progress.trained == 80 - rejected
    assert rejected > 5
    assert leaves > 0


def test_few_rows_facts_are_found_ahead_of_a_short_search(truth, experiment: SimpleNamespace) -> None:
    clock, contenders = experiment.clock, experiment.contenders
    sampler = contenders.ours(truth, 0)
    search = clock.Search(truth, sampler, clock.Rules(), 0)
    assert len(sampler.survey()) >= 12
    search.run(12, 2.0)
    assert len(sampler._ahead) == 8


def test_no_recipe_and_no_trunk_holds_much_of_the_hypervolume_alone(truth, experiment: SimpleNamespace) -> None:
    hypervolume = experiment.clock.moocore.hypervolume
    lines = truth.lines[(truth._past(truth.lines) <= 0).all(axis=1)]
    points = truth.points(lines)
    shares = [hypervolume(point[None], ref=np.ones(3)) / truth.volume for point in points]
    assert max(shares) < 0.67
    names = [name for name in row_names(truth) if not name.startswith(("low_bit", "choice_5"))]
    trunk = lines.groupby(names, dropna=False).ngroup().to_numpy()
    lost = [1 - hypervolume(points[trunk != one], ref=np.ones(3)) / truth.volume for one in set(trunk)]
    assert max(lost) < 0.1
    chosen: list[np.ndarray] = []
    for _ in range(4):
        worth = [hypervolume(np.vstack([*chosen, point]), ref=np.ones(3)) for point in points]
        chosen.append(points[int(np.argmax(worth))])
    assert max(worth) < 0.95 * truth.volume


def test_the_share_of_the_true_front_ends_at_one(truth, experiment: SimpleNamespace) -> None:
    points = truth.feasible
    assert 10 < len(points) < len(truth.lines) / 5
    front = points[~np.array([((points <= p).all(1) & (points < p).any(1)).any() for p in points])]
    volume = experiment.clock.moocore.hypervolume(front, ref=np.ones(3))
    assert volume == pytest.approx(truth.volume)
    kept = [truth.metrics(line) for line in truth.index.values()]
    inside = sum(all(limit.violation(metrics) <= 0 for limit in truth.limits) for metrics in kept)
    assert inside == len(points)


def test_reports_wait_for_levels_and_say_who_never_got_there(experiment: SimpleNamespace) -> None:
    report = experiment.report
    rows = report.pd.DataFrame(
        {
            "case": "TPE as it comes", "cpu_s": [100.0, 100.0], "cpu_s_0.25": [10.0, 30.0], "cpu_s_0.5": [20.0, np.nan],
            "cpu_s_0.75": [40.0, np.nan],
        }
    )  # fmt: skip
    np.testing.assert_allclose(
        report.shares(rows, np.array([5, 15, 25, 50.0])), [[0, 0.25, 0.5, 0.75], [0, 0, 0, 0.25]]
    )
    assert report.rival_moment(rows) == pytest.approx(40, rel=0.01)
    assert report.seconds(report.until(rows, 0.5)) == "20 (1 of 2)"


def test_no_number_of_workers_is_quicker_than_the_recipes_of_a_share(truth, experiment: SimpleNamespace) -> None:
    clock, sampler = experiment.clock, experiment.contenders.ours(truth, 0)
    sampler.draw = sampler.random  # Optuna's own read all that run from the storage at each ask
    search = clock.Search(truth, sampler, clock.Rules(cache=False, rejects=False, workers=400), 0)
    progress = search.run(400, 2.0)
    shares = np.array(progress.share)
    for share in (0.1, 0.3):
        assert shares[-1] > share
        assert progress.wall[int(np.argmax(shares >= share))] >= experiment.report.shortest(truth, share)
    assert experiment.report.shortest(truth, 0.3) <= experiment.report.shortest(truth, 0.9)
