"""Verdicts, folds and grids: by hand, and how often they hold."""

import json

import numpy as np
import pytest
from tiny import tally

from fss.lab.campaign import Campaign, summary
from fss.lab.intervals import Parts, difference, holm
from fss.lab.verdicts import Cell, Verdict, grid, grid_figure, grid_table, runs_needed, verdict_table, verdicts
from fss.metrics import EpisodeTally, paired_estimate

DECLARED = """
episodes = 40
grid_episodes = 40
shots = [1]
references = ["all-foreground"]
[data.shapes]
grid = { texture = "shapes:share=texture" }
[data.scenes-0]
spec = "semantic:$SCENES"
group = "scenes"
[data.scenes-1]
spec = "semantic:$SCENES"
fold = 1
group = "scenes"
[arms]
blind = { seeds = 3 }
base = { seeds = 3 }
better = { arm = "published", seeds = 3 }
same = { arm = "intended", seeds = 3 }
bare = { arm = "published", set = ["prior=none"], seeds = 3, parent = "better" }
lone = { arm = "lda" }
"""


def of(miou, seed=0, hard=0.05):
    """40 episodes of 20 pictures and 4 classes, whose object of 1,000 pixels is found to this share, about."""
    hardness = np.random.default_rng(7).normal(0, hard, 40)  # what is hard, is hard for all
    shares = np.clip(miou + hardness - hardness.mean() + np.random.default_rng(seed).normal(0, 0.002, 40), 0.001, 0.999)
    made = tally(*((int(1000 * share), 1000) for share in shares))
    made.counts[:, 0] = np.arange(40) % 4
    return EpisodeTally(made.counts, [str(n % 20) for n in range(40)])


def write(campaign, name, made, **grids):
    run = {run.name: run for run in campaign.runs}[name]
    rows = [
        {"on": on, "shots": 1, "episodes_sha256": "a", "counts": each.to_json()}
        for on, each in {None: made, **grids}.items()
    ]
    path = campaign.path(run)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"settings": run.settings(), "rows": rows}))


@pytest.fixture
def campaign(tmp_path):
    (tmp_path / "campaign.toml").write_text(DECLARED)
    made = Campaign.read(tmp_path)
    means = {"all-foreground": 0.1, "blind": 0.2, "base": 0.6, "better": 0.65, "same": 0.601, "bare": 0.5, "lone": 0.7}
    for run in made.runs:
        seed = 10 * run.seed + len(run.arm)
        here = of(means[run.arm] + (0.001 * (run.seed - 1) if run.trained else 0), seed)
        there = {"texture": of(means[run.arm] / 2, seed)} if run.grid else {}
        write(made, run.name, here, **there)
    return made


def test_verdicts_by_hand(campaign):
    found = {each.arm: each for each in verdicts(campaign.results(), "shapes", 1)}
    assert list(found) == ["better", "same", "bare", "lone"]  # neither references nor blind
    assert (found["better"].verdict, found["bare"].verdict) == ("gains", "costs")
    assert (found["better"].parent, found["bare"].parent) == ("base", "better")
    assert found["same"].verdict == "no larger than 1.08" and found["same"].interval[0] < 0 < found["same"].interval[1]
    assert found["lone"] == Verdict("lone", "base")  # one run says nothing of others
    assert found["better"].gain == pytest.approx(0.05, abs=0.003)
    share, (low, high) = found["better"].share
    assert share == pytest.approx(0.05 / 0.4, abs=0.01) and low < share < high
    assert found["bare"].share is None  # of base minus blind, but it is not compared to base
    assert all(each.runs is None for each in found.values())


def test_a_verdict_table_by_hand(campaign):
    head, _, better, same, bare, lone = verdict_table(campaign.results(), "shapes").splitlines()
    assert head == "| arm | over | shots | gain [95 %] | p | verdict | of base - blind (%) |"
    assert better.startswith("| better | base | 1 | +5.0 [") and "| < 0.001 | gains | +1" in better
    assert "| no larger than 1.08 |" in same and bare.startswith("| bare | better | 1 | -15.0 [")
    assert lone == "| lone | base | 1 | – | – | not settled: too few runs | – |"


def test_the_papers_gain_is_in_the_interval_or_out(campaign, tmp_path):
    (tmp_path / "campaign.toml").write_text(
        DECLARED.replace("better = {", "published = {").replace('"better"', '"published"')
    )
    for path in tmp_path.glob("*/better-*.json"):
        path.rename(path.with_name(path.name.replace("better", "published")))
    lines = verdict_table(Campaign.read(tmp_path).results(), "shapes").splitlines()
    assert lines[0].endswith("| the paper's |") and lines[2].endswith("| +1.08 (out) |") and lines[3].endswith("| – |")


def test_a_group_is_the_mean_of_its_folds(campaign):
    results = campaign.results()
    rows = {(row["data"], row["arm"]): row for row in summary(results)}
    (path,) = campaign.folder.glob("scenes-1/lone-0.json")
    for arm in ("base", "better"):
        folds = [rows[f"scenes-{fold}", arm] for fold in (0, 1)]
        assert rows["scenes", arm]["miou"] == pytest.approx(np.mean([row["miou"] for row in folds]))
        assert rows["scenes", arm]["spread"] ** 2 == pytest.approx(np.mean([row["spread"] ** 2 for row in folds]))
    assert rows["scenes", "lone"]["seeds"] == 1 and rows["scenes", "lone"]["gain_interval"] is None
    low, high = rows["scenes", "better"]["gain_interval"]
    assert low < rows["scenes", "better"]["gain"] < high
    path.unlink()  # an arm without one of the folds has no mean over them
    assert ("scenes", "lone") not in {(row["data"], row["arm"]) for row in summary(campaign.results())}
    assert {each.arm for each in verdicts(results, "scenes", 1)} == {"better", "same", "bare", "lone"}


def test_one_fold_is_welchs_interval():
    a, b = (
        [of(0.6 + x, n) for n, x in enumerate((0, 0.02, 0.05))],
        [of(0.5 + x, n) for n, x in enumerate((0, 0.01, 0.04))],
    )
    assert difference([a], [b]).estimate() == pytest.approx(paired_estimate(a, b))
    assert difference([a], [b[:1]], fixed=(False, True)).estimate() == pytest.approx(paired_estimate(a, b[0]))
    assert difference([a[:2]], [b]) is None and difference([a[:2]] * 2, [b[:2]] * 2) is not None


def test_folds_by_hand():
    """Spreads are pooled over the folds of one arm, and means of folds may differ as they like."""
    a = [[of(0.6), of(0.62)], [of(0.3), of(0.34)]]
    b = [[of(0.5), of(0.5)], [of(0.2), of(0.2)]]
    parts = difference(a, b)
    scores = [[tally.miou() for tally in fold] for fold in a]
    assert parts.value == pytest.approx(np.mean(scores) - np.mean([[t.miou() for t in fold] for fold in b]))
    pooled = np.mean([np.var(fold, ddof=1) for fold in scores])
    assert parts.runs == (pytest.approx((pooled / 4, 2)), pytest.approx((0, 2)))  # two folds of two runs each
    fold = [paired_estimate(ours[0] + ours[1], theirs[0] + theirs[1]) for ours, theirs in zip(a, b, strict=True)]
    assert parts.pictures[0] == pytest.approx(sum(each.variance for each in fold) / 4, rel=0.01)


def test_runs_needed_by_hand():
    """Of a gain of 0, with runs alone: the half width t s (2 / n) ** 0.5 falls below 1.08 points."""
    spread, parts = 0.01, Parts(0.0, ((0.01**2 / 3, 2.0),) * 2, (0.0, 1.0))
    quantiles = {5: 2.306, 6: 2.228, 7: 2.179, 8: 2.145, 9: 2.120}  # of Student with 2 (n - 1) degrees
    halves = {n: t * spread * (2 / n) ** 0.5 for n, t in quantiles.items()}
    first = min(n for n, half in halves.items() if half < 0.0108)
    assert runs_needed(parts, 3) == first and halves[first - 1] > 0.0108
    assert runs_needed(parts._replace(pictures=(1.0, 9.0)), 3) is None
    assert runs_needed(parts._replace(value=0.1), 3) == 4


def test_a_grid_by_hand(campaign):
    cells = grid(campaign.results(), "shapes")
    assert list(cells) == ["default", "texture"]
    assert cells["texture"]["base"] == Cell(pytest.approx(0.3, abs=0.005))
    assert cells["texture"]["better"].verdict.gain == pytest.approx(0.025, abs=0.003)
    assert cells["texture"]["bare"].verdict.parent == "better" and cells["texture"]["lone"].verdict is None
    head, _, default, texture = grid_table(cells).splitlines()
    assert head == "|  | all-foreground | blind | base | better | same | bare | lone |"
    assert default.startswith("| default | 10.") and "(+5.0 [" in default and "(-7.5 [" in texture
    (axis,) = grid_figure(cells).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["default", "texture"]
    spans = [line.get_xdata() for line in axis.lines if len(line.get_xdata()) == 2]
    assert len(spans) == 1 + 2 * 2  # zero, and two entries of the two arms that are compared to base
    assert grid_figure({"default": {"base": Cell(0.5)}}) is None


@pytest.mark.slow
@pytest.mark.parametrize("folds, runs", [(1, 3), (1, 5), (4, 2)])
def test_intervals_of_unequal_spreads_hold_the_truth(folds, runs):
    """95 % intervals of arms whose runs spread five times differently, the pictures being shared."""
    rng = np.random.default_rng(5)
    held, pictures, number = 0, 60, 1000
    for _ in range(number):
        parts, levels = [], rng.normal(0, 0.1, folds)
        hard = rng.normal(0, 0.02, (folds, pictures))  # of the difference, picture by picture
        scores = [levels[:, None] + rng.normal(0, spread, (folds, runs)) for spread in (0.002, 0.01)]
        value = float((scores[0].mean(1) + hard.mean(1) - scores[1].mean(1)).mean())
        for side in scores:
            within = side.var(1, ddof=1).mean()
            parts.append((within / runs / folds, folds * (runs - 1)))
        shared = (hard.var(1, ddof=1) / pictures).sum() / folds**2
        low, high = Parts(value, tuple(parts), (shared, folds * (pictures - 1))).estimate().interval()
        held += low < 0 < high
    assert 0.92 < held / number < 0.98


@pytest.mark.slow
def test_a_family_of_arms_that_change_nothing_is_seldom_said_to():
    rng = np.random.default_rng(6)
    wrong = 0
    for _ in range(100):
        base, *arms = [
            [of(0.5 + shift, int(rng.integers(1e9)), 0.02) for shift in rng.normal(0, 0.01, 3)] for _ in range(5)
        ]
        wrong += any(low > 0 or high < 0 for _, (low, high) in holm([difference([a], [base]).estimate() for a in arms]))
    assert wrong <= 11  # of 100; 5 are expected at most, and 11 or more come once in a hundred times
