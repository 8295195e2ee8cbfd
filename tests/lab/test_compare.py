"""``fss compare``: two results of ``fss eval --json``, in processes of their own."""

import json

import pytest
import reference
from processes import Fss
from scipy.stats import t
from tiny import load_tiny, write_boxes

from fss.__main__ import main
from fss.errors import InputError
from fss.lab.compare import compare
from fss.metrics import EpisodeTally

pytestmark = pytest.mark.numbers

COUNTS = {
    "class": [0, 0, 0, 1, 1, 1],
    "fg_intersection": [4, 3, 2, 5, 1, 3],
    "fg_union": [5, 6, 4, 6, 4, 5],
    "bg_intersection": [9] * 6,
    "bg_union": [10, 12, 11, 10, 12, 11],
    "query": ["a", "b", "b", "c", "d", "e"],
}
OTHER = COUNTS | {"fg_intersection": [3, 2, 2, 5, 2, 1], "bg_union": [11, 13, 11, 10, 11, 13]}


def result(counts, /, **changed):
    written = {"miou": EpisodeTally.from_json(counts).miou(), "counts": counts, "episodes_sha256": "0ff", "size": 64}
    written |= {"support": "own", "scored_at": "network", "void": "ignore", "checkpoint": "mine"}
    return written | {"data": "shapes", "split": "test", "fold": 0} | changed


@pytest.fixture
def write(tmp_path):
    def write(name, *args, **changed):
        path = tmp_path / name
        path.write_text(json.dumps(result(*args, **changed)))
        return path

    return write


def test_the_difference_equals_a_hand_computation(write):
    found = compare(write("a.json", COUNTS), write("b.json", OTHER))
    # class 0: 9/15 and 7/15; class 1: 9/15 and 8/15
    assert found["miou"] == pytest.approx([(9 / 15 + 9 / 15) / 2, (7 / 15 + 8 / 15) / 2])
    assert found["difference"] == pytest.approx(0.1)
    sides = [
        list(zip(*(each[key] for key in ("class", "query", "fg_intersection", "fg_union")), strict=True))
        for each in (COUNTS, OTHER)
    ]
    value, variance, degrees = reference.jackknife(sides, (1, -1))
    half = t.ppf(0.975, degrees) * variance**0.5
    assert found["difference_interval"] == pytest.approx((value - half, value + half))
    assert (found["pictures"], found["episodes"]) == (5, 6)
    # The two pictures of class 0 by hand: without a, 5/10 - 4/10; without b, 4/5 - 3/5; each beside class 1's 1/15.
    without = [(1 / 10 + 1 / 15) / 2, (2 / 10 + 1 / 15) / 2]
    of_class_0 = 1 / 2 * 2 * ((without[1] - without[0]) / 2) ** 2
    without = [(2 / 15 + each) / 2 for each in (4 / 9 - 3 / 9, 8 / 11 - 6 / 11, 6 / 10 - 7 / 10)]
    center = sum(without) / 3
    of_class_1 = 2 / 3 * sum((each - center) ** 2 for each in without)
    assert variance == pytest.approx(of_class_0 + of_class_1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"episodes_sha256": "1ee"}, r"differ in their episode lists \(0ff and 1ee\)"),
        ({"data": "folder:mine"}, r"differ in their data \(shapes and folder:mine\)"),
        ({"support": "other"}, r"differ in their supports \(own and other\)"),
        ({"size": 96}, r"differ in their sizes \(64 and 96\)"),
        ({"scored_at": "label"}, r"differ in their sizes that they are scored at \(network and label\)"),
        ({"counts": COUNTS | {"class": [0, 0, 0, 1, 1, 2]}}, "hold different episodes"),
        ({"counts": {**COUNTS, "query": list("abbcdf")}}, "hold different episodes"),
        ({"counts": {key: column for key, column in COUNTS.items() if key != "query"}}, "b.json: no result .*'query'"),
        ({"counts": None}, "b.json: no result"),
        ({"counts": {**COUNTS, "fg_union": 6}}, "b.json: no result"),
        ({"counts": {**COUNTS, "fg_union": [[6]] * 6}}, "b.json: no result"),
        ({"counts": {**COUNTS, "fg_union": [0] * 6}}, r"b.json: .*impossible counts"),
    ],
)
def test_what_cannot_be_compared_is_refused(write, changed, message):
    a, b = write("a.json", COUNTS), write("b.json", COUNTS, **changed)
    with pytest.raises(InputError, match=message) as raised:
        compare(a, b)
    assert "\n" not in str(raised.value)


def test_absent_supports_have_no_miou(write):
    absent = {"miou": None, "support": "absent"}
    with pytest.raises(InputError, match="a.json: has no mIoU to compare, with absent supports"):
        compare(write("a.json", COUNTS, **absent), write("b.json", COUNTS, **absent))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"miou": 1}'])
def test_what_is_no_result_is_refused(tmp_path, write, content):
    (tmp_path / "b.json").write_text(content)
    with pytest.raises(InputError, match="b.json: no result of fss eval --json"):
        compare(write("a.json", COUNTS), tmp_path / "b.json")
    with pytest.raises(InputError, match="none.json: no such file"):
        compare(tmp_path / "none.json", tmp_path / "b.json")


def test_eval_and_compare_in_processes(tmp_path):
    data = f"folder:{write_boxes(tmp_path / 'boxes', 5, 4)}"
    made = {"a": ("prototype", 0), "b": ("all-foreground", 0), "c": ("prototype", 1)}
    for name, (checkpoint, seed) in made.items():
        words = ["eval", "--checkpoint", checkpoint, "--data", data, "--size", 64, "--episodes", 12, "--seed", seed]
        words += ["--json", tmp_path / f"{name}.json", "--quiet"]
        run = Fss(*words, folder=tmp_path, patches={"fss.model.load_backbone": load_tiny})
        assert run.end() == 0, run.err
    a, b, c, out = (tmp_path / f"{name}.json" for name in ("a", "b", "c", "out"))
    run = Fss("compare", a, b, "--json", out, folder=tmp_path)
    assert run.end() == 0, run.err
    first, second, last = run.out.splitlines()
    found = json.loads(out.read_text())
    written = [json.loads(path.read_text()) for path in (a, b)]
    assert found["miou"] == [each["miou"] for each in written]
    assert first == f"{a}: mIoU {100 * found['miou'][0]:.1f}   prototype"
    assert second == f"{b}: mIoU {100 * found['miou'][1]:.1f}   all-foreground"
    low, high = (100 * end for end in found["difference_interval"])
    pictures = len(set(written[0]["counts"]["query"]))
    assert last.startswith(f"difference {100 * found['difference']:+.1f} points [{low:+.1f}, {high:+.1f}], 95 % over ")
    assert f"over {pictures} query pictures of 12 episodes" in last
    run = Fss("compare", a, c, folder=tmp_path)
    assert run.end() == 2
    assert run.err.startswith(f"fss: error: {a} and {c} differ in their episode lists") and run.err.count("\n") == 1


def test_a_place_that_cannot_be_written_is_refused_first(tmp_path, write, capsys):
    words = ["compare", str(write("a.json", COUNTS)), str(tmp_path / "none"), "--json", str(tmp_path / "a.json" / "x")]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2 and "a.json" in capsys.readouterr().err
