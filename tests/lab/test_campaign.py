"""Declarations and results of campaigns: what is refused, and sums by hand."""

import json
from pathlib import Path

import pytest
from tiny import tally

from fss.config import DANetConfig, DataConfig, Scoring
from fss.data import open_dataset
from fss.errors import InputError
from fss.lab.ablate import needed
from fss.lab.campaign import Campaign, summary
from fss.metrics import paired_interval

RESULTS = Path(__file__).resolve().parents[2] / "results"
DECLARED = """
episodes = 2
shots = [1]
references = ["prototype"]
set = ["steps=30", "size=64"]
[data.shapes]
[data.mine]
spec = "folder:$MINE"
set = ["steps=20"]
[arms]
base = { seeds = 2 }
no-prior = { arm = "published", set = ["prior=none"], data = ["mine"] }
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "campaign.toml").write_text(DECLARED)
    return tmp_path


def write(campaign, name, episodic, *, sha256="a", also_tallies=(), controls=(), code=None, **changed):
    run = {run.name: run for run in campaign.runs}[name]
    tallies = {None: episodic, **dict(also_tallies)}
    rows = [{"on": on, "shots": 1, "episodes_sha256": sha256, "counts": each.to_json()} for on, each in tallies.items()]
    rows += [{"on": None, "shots": 1, "episodes_sha256": "c", "counts": tally((0, 4)).to_json(), **c} for c in controls]
    record = {"settings": {**run.settings(), **changed}, "rows": rows} | ({"code": code} if code else {})
    path = campaign.path(run)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record))


def test_a_declaration_makes_its_runs(folder):
    runs = Campaign.read(folder).runs
    assert [run.name for run in runs] == [
        "shapes/prototype-0",
        "shapes/base-0",
        "shapes/base-1",
        "mine/prototype-0",
        "mine/base-0",
        "mine/base-1",
        "mine/no-prior-0",
    ]
    no_prior = runs[-1]
    assert no_prior.config == DANetConfig.published(prior=None)
    assert (no_prior.schedule.steps, no_prior.schedule.size) == (20, 64)
    assert [run.schedule.seed for run in runs[1:3]] == [0, 1]
    assert runs[1].schedule.steps == 30 and runs[1].shots == (1,) and runs[1].episodes == 2
    assert runs[0].reference and "train" not in runs[0].settings()


def test_folds_lists_and_what_is_read_may_be_declared(folder):
    more = 'fold = 2\nlists = 3\n[scoring]\nat = "label"\n[options]\nmin_pixels = 9\n'
    declared = DECLARED.replace("[data.mine]", "[data.mine]\nfold = 0\nskip_small_classes = true")
    (folder / "campaign.toml").write_text(declared.replace("[data.shapes]", f"{more}[data.shapes]"))
    runs = Campaign.read(folder).runs
    assert {(run.data, run.fold) for run in runs} == {("shapes", 2), ("mine", 0)}
    assert {run.lists for run in runs} == {3}
    assert {run.options for run in runs} == {DataConfig(min_pixels=9)}
    assert {run.scoring for run in runs} == {Scoring(at="label")}
    assert {(run.data, run.settings().get("skip_small_classes")) for run in runs if run.trained} == {
        ("shapes", None),
        ("mine", True),
    }


def test_validation_classes_may_be_measured(folder):
    before = Campaign.read(folder).runs
    (folder / "campaign.toml").write_text(DECLARED.replace("shots = [1]", 'shots = [1]\nsplit = "val"'))
    runs = Campaign.read(folder).runs
    assert [run.settings() for run in runs] == [{**run.settings(), "split": "val"} for run in before]
    shapes = next(run for run in runs if run.trained and run.data == "shapes")
    assert {pictures.split for pictures in needed([shapes])} == {"train", "val"}
    assert shapes.open(shapes.split).classes == open_dataset("shapes", split="val", size=64).classes


def test_an_arm_may_be_a_checkpoint_or_leak_on_purpose(folder):
    more = (
        'ours = { checkpoint = "best-lite0-photos", allow_leak = true, data = ["mine"] }\n'
        'leaking = { arm = "base", fold = 1, allow_leak = true, data = ["shapes"] }\n'
    )
    scored = '[data.mine]\nscoring = { at = "label" }\noptions = { classes = "cat" }'
    (folder / "campaign.toml").write_text(DECLARED.replace("[data.mine]", scored) + more)
    runs = {run.name: run for run in Campaign.read(folder).runs}
    ours, leaking = runs["mine/ours-0"], runs["shapes/leaking-0"]
    assert not ours.trained and ours.allow_leak and not runs["mine/base-0"].allow_leak
    assert ours.config == DANetConfig.best() and ours.schedule.size == 256
    assert ours.settings()["checkpoint"] == "best-lite0-photos" and "train" not in ours.settings()
    assert (ours.scoring, ours.options) == (Scoring(at="label"), DataConfig(classes="cat"))
    assert (leaking.fold, leaking.train_fold, leaking.settings()["train_fold"]) == (0, 1, 1)
    assert not {*leaking.open("train").classes} & {*leaking.open("val").classes}
    assert {*leaking.open("train").classes} & {*leaking.open("test").classes}
    assert "train_fold" not in runs["shapes/base-0"].settings() and leaking.trained


def test_a_private_path_stays_in_the_environment(folder, monkeypatch):
    run = Campaign.read(folder).runs[-1]
    monkeypatch.delenv("MINE", raising=False)
    with pytest.raises(InputError, match=r"folder:\$MINE needs MINE; set it: MINE=path"):
        run.open_spec()
    monkeypatch.setenv("MINE", "/a b")
    assert run.open_spec() == "folder:/a b"
    assert run.settings()["data"] == "folder:$MINE"


def test_a_reference_with_a_number(folder):
    """Its name is no arm's, and no part of it a colon, which files of Windows do not have."""
    text = DECLARED.replace('["prototype"]', '["em:5", "nearest"]')
    (folder / "campaign.toml").write_text(text)
    campaign = Campaign.read(folder)
    runs = [run for run in campaign.runs if run.reference and run.data == "shapes"]
    assert [run.name for run in runs] == ["shapes/em=5-0", "shapes/nearest-0"]
    assert [run.settings()["reference"] for run in runs] == ["em:5", "nearest"]
    assert not any(run.trained for run in runs)
    write(campaign, "shapes/em=5-0", tally((1, 10), (2, 10)))
    (row,) = summary(campaign.results())
    assert (row["arm"], row["seeds"]) == ("em:5", 1) and row["miou_interval"] is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("base = {", "bse = {", "unknown arm 'bse'; did you mean 'base'"),
        ("base = {", '"Base 1" = {', r"arms.Base 1: use small letters"),
        ("base = {", "prototype = {", "arms.prototype: that is the name of a reference"),
        ("seeds = 2", "seed = 2", r"arms.base.seed: no such key; did you mean 'seeds'"),
        ("seeds = 2", "seeds = 0", r"arms.base.seeds = 0: use 1 or more"),
        ("seeds = 2", "seeds = true", r"arms.base.seeds = True: give a int"),
        ("seeds = 2 }", "", "cannot be read as TOML"),
        (
            "= { seeds = 2 }",
            "= 2",
            "arms.base: is a table of arm, checkpoint, fold, allow_leak, set, seeds, data, parent",
        ),
        (
            "base = {",
            'x = { arm = "base", parent = "bse" }\nbase = {',
            "arms.x.parent = 'bse': no such arm; did you mean 'base'",
        ),
        ("shots = [1]", "shots = [0]", r"shots = \[0\]: use 1 or more"),
        ("shots = [1]", "shots = 1", "shots = 1: give a list"),
        ("shots = [1]", "shots = []", "declares no shots"),
        ("steps=20", "seed=7", "set seed=7: give the arms a number of seeds"),
        ("prior=none", "seed=7", "set seed=7: give the arms a number of seeds"),
        ("episodes = 2", "epsodes = 2", "epsodes: no such key; did you mean 'episodes'"),
        ("prototype", "prototyp", "references: no 'prototyp'; did you mean 'prototype'"),
        ("prototype", "prototypes:0", "prototypes:0: no such reference; there are all-foreground, prototype, "),
        ("prototype", "prototype:3", "prototype:3: no such reference; there are all-foreground, prototype, "),
        ("steps=20", "stpes=20", "no setting 'stpes'; did you mean 'steps'"),
        ("steps=20", "steps=0", "TrainConfig.steps = 0: use 1 or more"),
        ('data = ["mine"]', 'data = ["min"]', "no data 'min'; did you mean 'mine'"),
        ("[data.shapes]\n[data.mine]", "[mine]", "mine: no such key"),
        ("episodes = 2", 'baseline = "bse"', "baseline = 'bse': no such arm; did you mean 'base'"),
        ("[data.mine]", "[data.mine]\nalso = { a = 1 }", "data.mine.also.a = 1: give a name of"),
        ("[data.mine]", "[data.mine]\ngrid = { a = 1 }", "data.mine.grid.a = 1: give a name of"),
        (
            "[data.mine]",
            '[data.mine]\nalso = { a = "shapes" }\ngrid = { a = "shapes" }',
            "data.mine.grid.a: the name is one of also; take another",
        ),
        ("base = {", 'x = { checkpoint = "gone" }\nbase = {', "no checkpoint 'gone'"),
        ("base = {", 'x = { checkpoint = "best-lite0-photos", seeds = 2 }\nbase = {', "arms.x.seeds: a checkpoint is"),
        ("[data.mine]", "[data.mine]\nfold = -1", "data.mine.fold = -1: use 0 or more"),
        ("shots = [1]", "shots = [1]\nlists = 0", "lists = 0: use 1 or more"),
        ("shots = [1]", 'shots = [1]\nsplit = "train"', "split = 'train': use 'val' or 'test'"),
        ("[arms]", "[options]\nnovl = 1\n[arms]", "no setting 'novl'; did you mean 'novel'"),
        ("[arms]", "[scoring]\nat = 1\n[arms]", "Scoring.at = 1: use 'network', 'label'"),
    ],
)
def test_a_bad_declaration_is_refused(folder, old, new, message):
    assert old in DECLARED
    (folder / "campaign.toml").write_text(DECLARED.replace(old, new))
    with pytest.raises(InputError, match=message) as raised:
        Campaign.read(folder)
    assert str(raised.value).startswith(str(folder / "campaign.toml"))


def test_no_declaration(tmp_path):
    with pytest.raises(InputError, match="campaign.toml: no such file"):
        Campaign.read(tmp_path)


def test_results_are_read_back(folder):
    campaign = Campaign.read(folder)
    assert campaign.results() == {}
    write(campaign, "mine/base-1", tally((1, 2), (3, 4)))
    assert list(campaign.results()) == ["mine/base-1"]
    assert campaign.results()["mine/base-1"].tallies[1].miou() == 4 / 6


def test_results_of_other_settings_are_not_mixed_in(folder):
    campaign = Campaign.read(folder)
    write(campaign, "mine/base-0", tally((1, 2), (3, 4)))
    (folder / "campaign.toml").write_text(DECLARED.replace("steps=20", "steps=25"))
    with pytest.raises(InputError, match=r"base-0.json: was made with steps = 20, and .* 25"):
        Campaign.read(folder).results()
    write(campaign, "mine/base-0", tally((1, 2), (3, 4)), episodes=3)
    with pytest.raises(InputError, match="was made with episodes = 3"):
        campaign.results()
    write(campaign, "mine/base-0", tally((1, 2), (3, 4)), shots=[1, 5])
    with pytest.raises(InputError, match=r"was made with shots = \[1, 5\], and .* \[1\]"):
        campaign.results()
    training = campaign.runs[-1].schedule.override({"shots": 2}).to_json()
    write(campaign, "mine/base-0", tally((1, 2), (3, 4)), train=training)
    with pytest.raises(InputError, match="was made with shots of the training = 2, and .* 1"):
        campaign.results()


def test_results_of_other_episodes_are_not_mixed(folder):
    campaign = Campaign.read(folder)
    write(campaign, "mine/base-0", tally((1, 2), (3, 4)))
    write(campaign, "shapes/base-0", tally((1, 2), (3, 4)), sha256="b")
    assert len(campaign.results()) == 2
    write(campaign, "mine/base-1", tally((1, 2), (3, 4)), sha256="b")
    with pytest.raises(InputError, match=r"base-1.json: measured on other episodes than mine/ba"):
        campaign.results()


def test_a_result_that_nothing_declares_is_refused(folder):
    campaign = Campaign.read(folder)
    write(campaign, "mine/base-0", tally((1, 2), (3, 4)))
    (folder / "mine" / "base-0.json").rename(folder / "mine" / "base-7.json")
    with pytest.raises(InputError, match=r"base-7.json: no run of campaign.toml has this name"):
        campaign.results()


def test_a_result_of_before_a_setting_was_added_has_its_default(folder):
    campaign = Campaign.read(folder)
    write(campaign, "mine/base-0", tally((1, 2), (3, 4)))
    path = folder / "mine" / "base-0.json"
    record = json.loads(path.read_bytes())
    del record["settings"]["config"]["prototypes"], record["settings"]["train"]["absent"]
    path.write_text(json.dumps(record))
    assert len(campaign.results()) == 1
    record["settings"]["config"]["prototypes"] = 2
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="prototypes = 2 with pca = True|was made with prototypes = 2, and"):
        campaign.results()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"settings": {}, "tallies": {"1": {}}}'])
def test_a_damaged_result_is_refused(folder, content):
    campaign = Campaign.read(folder)
    write(campaign, "mine/base-0", tally((1, 2), (3, 4)))
    (folder / "mine" / "base-0.json").write_text(content)
    with pytest.raises(InputError, match=r"base-0.json: no result of a run .*; remove it"):
        campaign.results()


def test_summary_by_hand(folder):
    campaign = Campaign.read(folder)
    write(campaign, "mine/prototype-0", tally((1, 10), (1, 10)))
    write(campaign, "mine/base-0", tally((1, 2), (3, 4)))  # 4/6
    write(campaign, "mine/base-1", tally((1, 2), (1, 4)))  # 2/6
    write(campaign, "mine/no-prior-0", tally((2, 2), (4, 4)))
    rows = {row["arm"]: row for row in summary(campaign.results())}
    assert list(rows) == ["prototype", "base", "no-prior"]
    assert rows["base"]["miou"] == pytest.approx((4 / 6 + 2 / 6) / 2)
    assert rows["base"]["spread"] == pytest.approx(2**0.5 / 6)  # of 4/6 and 2/6
    assert rows["base"]["gain"] is rows["base"]["gain_interval"] is None
    assert (rows["base"]["seeds"], rows["no-prior"]["spread"]) == (2, None)
    assert rows["no-prior"]["gain"] == pytest.approx(0.5)
    assert rows["prototype"]["gain"] == pytest.approx(0.1 - 0.5)
    assert rows["no-prior"]["gain_interval"] is rows["prototype"]["gain_interval"] is None  # base has two seeds


def test_intervals_from_three_seeds_on(folder):
    (folder / "campaign.toml").write_text(
        DECLARED.replace("seeds = 2", "seeds = 3").replace('set = ["prior', 'seeds = 3, set = ["prior')
    )
    campaign = Campaign.read(folder)
    counts = {
        "prototype": [((1, 10), (2, 10), (3, 10))],
        "base": [((1, 2), (3, 4), (2, 4)), ((1, 2), (1, 4), (2, 4)), ((1, 2), (2, 4), (2, 4))],
        "no-prior": [((2, 2), (4, 4), (3, 4)), ((2, 2), (3, 4), (3, 4)), ((1, 2), (3, 4), (4, 4))],
    }
    tallies = {arm: [tally(*each) for each in runs] for arm, runs in counts.items()}
    for arm, runs in tallies.items():
        for seed, each in enumerate(runs):
            each.queries = ["a", "b", "b"]
            write(campaign, f"mine/{arm}-{seed}", each)
    rows = {row["arm"]: row for row in summary(campaign.results())}
    for arm in ("prototype", "no-prior"):  # the reference is there once, which is all there is of it
        assert rows[arm]["gain_interval"] == pytest.approx(paired_interval(tallies[arm], tallies["base"]))
    assert rows["base"]["gain_interval"] is None


def test_controls_stand_beside_the_own_supports(folder):
    (folder / "campaign.toml").write_text(
        DECLARED.replace("[data.mine]", '[data.mine]\nalso = { hard = "shapes:a=1" }')
    )
    campaign = Campaign.read(folder)
    for seed, marked in enumerate((0.1, 0.3)):
        controls = [
            {"support": "absent", "miou": None, "marked": marked},
            {"support": "other", "miou": 0.5, "marked": 0.2, "stays": 0.01 + seed / 100, "pictures": 30},
            {"support": "absent", "on": "hard", "miou": None, "marked": 0.7},
        ]
        write(campaign, f"mine/base-{seed}", tally((1, 2)), also_tallies={"hard": tally((1, 4))}, controls=controls)
    write(campaign, "mine/no-prior-0", tally((1, 2)))
    results = campaign.results()
    assert {len(result.tallies[1]) for result in results.values()} == {1}
    assert results["mine/base-0"].record["figures"].keys() == {"1"}
    keys = "miou", "marked", "other", "stays", "pictures"
    base, without = summary(results)
    assert [base[key] for key in keys] == pytest.approx([0.5, 0.2, 0.5, 0.015, 30])
    assert [without[key] for key in keys] == [0.5, None, None, None, None]
    (hard,) = summary(results, also="hard")
    assert [hard[key] for key in keys] == [0.25, 0.7, None, None, None]
    moved = {"support": "absent", "miou": None, "marked": 0.1, "episodes_sha256": "d"}
    write(campaign, "mine/base-1", tally((1, 2)), controls=[moved])
    with pytest.raises(InputError, match=r"base-1.json: measured on other episodes than mine/base-0"):
        campaign.results()


def test_summary_of_other_data(folder):
    declared = DECLARED.replace("[data.shapes]", '[data.shapes]\nalso = { hard = "shapes:a=1" }')
    (folder / "campaign.toml").write_text(declared)
    campaign = Campaign.read(folder)
    assert campaign.runs[0].also == {"hard": "shapes:a=1"} and not campaign.runs[-1].also
    write(campaign, "shapes/base-0", tally((1, 2), (3, 4)), also_tallies={"hard": tally((1, 4))})
    write(campaign, "mine/base-0", tally((1, 2), (3, 4)))
    results = campaign.results()
    (row,) = summary(results, also="hard")
    assert (row["data"], row["arm"], row["shots"], row["miou"]) == ("shapes", "base", 1, 1 / 4)
    assert [row["miou"] for row in summary(results)] == [4 / 6, 4 / 6]
    (folder / "campaign.toml").write_text(declared.replace("a=1", "a=2"))
    with pytest.raises(InputError, match=r"was made with also = .*a=1.* declares .*a=2"):
        Campaign.read(folder).results()


def test_a_grid_is_other_data_with_fewer_episodes_and_no_controls(folder):
    grid = '[data.shapes]\nalso = { hard = "shapes:share=texture" }\ngrid = { lone = "shapes:distractors_max=2" }'
    (folder / "campaign.toml").write_text(
        DECLARED.replace("episodes = 2", "episodes = 2\ngrid_episodes = 1").replace("[data.shapes]", grid)
    )
    run = Campaign.read(folder).runs[1]
    assert run.asked[-4:] == [("hard", 1, "own"), ("hard", 1, "absent"), ("hard", 1, "other"), ("lone", 1, "own")]
    assert (run.settings()["grid"], run.settings()["grid_episodes"]) == (dict(run.grid), 1)
    assert {pictures.spec for pictures in needed([run])} == {None, *run.others.values()}
    for on, number in ((None, 2), ("hard", 2), ("lone", 1)):
        dataset = run.open("test", run.others.get(on, run.spec))
        assert len(run.episodes_of(dataset, on, 1).episodes) == number


def test_a_gain_is_over_the_arms_own_parent(folder):
    (folder / "campaign.toml").write_text(
        DECLARED.replace('arm = "published"', 'arm = "published", parent = "whole"') + 'whole = { arm = "published" }\n'
    )
    campaign = Campaign.read(folder)
    for name, each in (("base-0", tally((1, 4))), ("whole-0", tally((3, 4))), ("no-prior-0", tally((2, 4)))):
        write(campaign, f"mine/{name}", each)
    rows = {row["arm"]: row for row in summary(campaign.results())}
    assert {arm: (row["parent"], row["gain"]) for arm, row in rows.items()} == {
        "base": ("base", None),
        "no-prior": ("whole", -0.25),
        "whole": ("base", 0.5),
    }


def test_results_of_other_files_are_refused_by_name(folder):
    campaign = Campaign.read(folder)
    for name, code in (("base-0", {"a.py": "1", "b.py": "1"}), ("base-1", {"a.py": "1"}), ("no-prior-0", None)):
        write(campaign, f"mine/{name}", tally((1, 2)), code=code)
    assert len(campaign.results()) == 3  # of before there were hashes, and of files that one alone imports
    write(campaign, "mine/base-1", tally((1, 2)), code={"a.py": "1", "b.py": "2", "c.py": "3"})
    with pytest.raises(InputError, match=r"base-1.json: was made with another b.py; .* go back to the commit"):
        campaign.results()


def test_without_a_baseline_there_is_no_gain(folder):
    campaign = Campaign.read(folder)
    write(campaign, "mine/no-prior-0", tally((2, 2), (4, 4)))
    (row,) = summary(campaign.results())
    assert row["gain"] is row["gain_interval"] is None


@pytest.mark.parametrize("declaration", sorted(RESULTS.glob("*/campaign.toml")), ids=lambda path: path.parent.name)
def test_committed_results_are_of_what_is_declared(declaration):
    for result in Campaign.read(declaration.parent).results().values():
        assert not result.record["machine"]["commit"].endswith("-dirty")
        assert result.tallies
        for shots, counted in result.tallies.items():
            assert counted.miou() == result.record["figures"][str(shots)]["miou"]
