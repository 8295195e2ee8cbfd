"""The shapes world: pure, disjoint, neither trivial nor hopeless, and its knobs tell the truth."""

import hashlib
import pickle
import subprocess
import sys
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from fss.data import open_dataset, shapes
from fss.data.shapes import Shapes, World, classes_of, endless
from fss.data.shapes.appearance import (
    ANGLES,
    PATTERNS,
    Surface,
    oklch_to_srgb,
    random_outline,
    random_surface,
)
from fss.data.shapes.drawing import Placed, ground, inset
from fss.data.shapes.layout import coverage
from fss.errors import InputError

SCRIPT = """
import hashlib
from fss.data.shapes import Shapes
for name in ("shape-0301", "shape-0007"):
    image, mask = Shapes().read(name, "3", 48)
    print(name, hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest())
"""


def scene(index: int, sample: int, **knobs: Any) -> dict[int, Placed]:
    """The objects of a scene by their label: 0 occluder, 1 target, 2.. distractors."""
    return {label: thing for thing, label in shapes._scene(index, sample, World(**knobs))}


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    """Masks [40 classes, 8 samples, 112, 112] of the default world."""
    read = Shapes().read
    names = classes_of("test", 0)[::5] + classes_of("test", 2)[::5]
    return np.stack([[read(name, str(n), 112)[1] for n in range(8)] for name in names])


def test_a_picture_does_not_depend_on_process_or_order():
    here = {}
    for name in ("shape-0007", "shape-0301"):  # the other order than in SCRIPT
        image, mask = pickle.loads(pickle.dumps(Shapes())).read(name, "3", 48)
        here[name] = hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest()
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert dict(line.split() for line in run.stdout.splitlines()) == here


def test_reading_leaves_the_global_generators_alone():
    before = np.random.get_state()[1].copy()
    Shapes().read("shape-0001", "0", 32)
    assert (np.random.get_state()[1] == before).all()


def test_splits_are_disjoint_and_folds_share_no_test_class():
    for fold in range(4):
        split = {name: set(classes_of(name, fold)) for name in ("train", "val", "test")}
        assert {name: len(held) for name, held in split.items()} == {"train": 270, "val": 30, "test": 100}
        assert all(not a & b for a, b in combinations(split.values(), 2))
    tests = [set(classes_of("test", fold)) for fold in range(4)]
    assert len(set.union(*tests)) == 400
    assert classes_of("test", 2)[0] == "shape-0200"


def test_the_other_objects_are_of_the_same_hundred_and_kind():
    """So that no split shows a class of another one, and every object can be asked for."""
    for index in (5, 9, 199, 350, 5037):
        for sample in range(12):
            own, *others = shapes._shown(index, sample, World())
            assert own == index and 2 <= len(others) <= 4 and len({own, *others}) == len(others) + 1
            assert {n // 100 for n in others} == {index // 100}
            assert {n % 10 == 9 for n in others} == {index % 10 == 9}


def test_the_world_goes_on_beyond_the_folds():
    names = endless(400, 3)
    assert names == ("shape-0400", "shape-0401", "shape-0402")
    drawn = [Shapes().read(name, "12", 32) for name in (*names, "shape-54321")]
    assert len({image.tobytes() for image, _ in drawn}) == 4
    assert all(mask.any() for _, mask in drawn)


@pytest.mark.parametrize(
    ("knobs", "index", "sample", "colours", "areas"),
    [
        ({}, 7, 0, [596690, 429976, 392060], [3265, 308, 230, 293]),
        (dict(share="texture", occlusion=1), 123, 4, [524836, 560549, 652925], [2649, 351, 128, 315, 446, 207]),
        (
            dict(share="outline", contrast=1, distractors_max=8, area_max=0.4),
            *(309, 9, [596215, 590314, 583079], [1586, 210, 237, 371, 305, 362, 780, 245]),
        ),
    ],
)
def test_pictures_change_with_the_version_alone(knobs, index, sample, colours, areas):
    assert shapes.VERSION == 3  # the sums are of its pictures; processors round a little differently
    image, instances = shapes.draw(index, sample, 64, World(**knobs))
    np.testing.assert_allclose(image.sum((0, 1)), colours, rtol=1e-4)
    np.testing.assert_allclose(np.bincount(instances.ravel()), areas, atol=3)


@pytest.mark.parametrize("size", [32, 57, 224])
def test_arrays_have_the_size_asked_for(size):
    image, mask = Shapes().read("shape-0123", "4", size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert mask.shape == (size, size) and mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}


def test_size_changes_the_resolution_and_not_the_scene():
    for n in range(6):
        small, small_map = Shapes().instances(f"shape-{40 * n:04d}", "2", 112)
        large, large_map = Shapes().instances(f"shape-{40 * n:04d}", "2", 224)
        assert set(np.unique(small_map)) == set(np.unique(large_map))
        assert (np.repeat(np.repeat(small_map, 2, 0), 2, 1) == large_map).mean() > 0.97
        halved = large.reshape(112, 2, 112, 2, 3).mean((1, 3))
        assert np.abs(halved - small).mean() < 4


def test_visible_targets_cover_3_to_16_percent(masks):
    low, high = np.percentile(masks.mean((2, 3)), [5, 95])
    assert 0.03 < low < 0.045
    assert 0.12 < high < 0.17


def test_predicting_foreground_everywhere_stays_under_10(masks):
    per_class = masks.sum((1, 2, 3)) / masks[0].size  # union = every pixel
    assert 0.06 < per_class.mean() < 0.1


def test_at_least_half_of_every_object_is_visible():
    shares = []
    for index in range(0, 400, 13):
        things = shapes._scene(index, 1, World(distractors_min=4, occlusion=1.0))
        wholes = [coverage(thing) for thing, _ in things]
        for n, (_, label) in enumerate(things):
            hidden = np.any([np.zeros_like(wholes[0]), *wholes[n + 1 :]], axis=0)
            shares += [(wholes[n] & ~hidden).sum() / wholes[n].sum()] if label else []
    assert min(shares) >= 0.5
    assert np.mean(shares) < 0.95  # and something does hide them


THREE = {"distractors_min": 3, "distractors_max": 3}
RULES = {  # of an object's pixels [N, 2] (row, column), what a rule that never sees a support goes by
    "largest": len,
    "smallest": lambda at: -len(at),
    "most central": lambda at: -np.hypot(*(at.mean(0) - SIDE / 2)),
    "farthest from the rim": lambda at: min(*at.mean(0), *(SIDE - at.mean(0))),
    "topmost": lambda at: -at[:, 0].mean(),
    "leftmost": lambda at: -at[:, 1].mean(),
}
SIDE = 48


def ruled(world: World, pictures: int) -> tuple[dict[str, float], dict[str, float], float, float]:
    """mIoU of each rule over the classes, how often it finds the target, and the mean and error of 1 / n."""
    rng = np.random.default_rng(0)
    sums, hits, chances = {name: [] for name in (*RULES, "frontmost")}, {name: [] for name in (*RULES, "frontmost")}, []
    for index in range(0, 400, 8):
        counted = {name: np.zeros(2) for name in sums}
        for sample in range(pictures):
            _, instances = shapes.draw(index, sample, SIDE, world)
            objects = {n: np.argwhere(instances == n) + 0.5 for n in np.unique(instances) if n}
            chances.append(1 / len(objects))
            front = [label for _, label in shapes._scene(index, sample, world) if label in objects][-1]
            for name in sums:
                if name == "frontmost":
                    chosen = front
                else:
                    by = {n: RULES[name](at) for n, at in objects.items()}
                    chosen = rng.choice([n for n, value in by.items() if value == max(by.values())])
                found, target = instances == chosen, instances == 1
                counted[name] += [(found & target).sum(), (found | target).sum()]
                hits[name].append(chosen == 1)
        for name, (both, either) in counted.items():
            sums[name].append(both / either)
    error = np.sqrt(np.mean(chances) * (1 - np.mean(chances)) / len(chances))
    return {k: np.mean(v) for k, v in sums.items()}, {k: np.mean(v) for k, v in hits.items()}, np.mean(chances), error


@pytest.mark.slow
@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"share": "texture"},
        {"share": "outline"},
        {"occlusion": 1.0},
        {"occlusion": 0.0},
        {"contrast": 1.0},
        {"distractors_min": 6, "distractors_max": 8},
        {"distractors_min": 1, "distractors_max": 1},
        {"area_min": 0.02, "area_max": 0.3},
    ],
    ids=str,
)
def test_no_rule_finds_the_target_without_a_support(knobs):
    """Largest, most central, frontmost ...: none is right more often than a lot among the objects would be."""
    mious, hits, chance, error = ruled(World(**knobs), 10)
    assert all(hit <= chance + 3 * error for hit in hits.values()), hits
    if not knobs:
        assert max(mious.values()) < 0.3, mious


def test_number_of_distractors():
    counts = {len([k for k in scene(7, s) if k > 1]) for s in range(40)}
    assert counts == {2, 3, 4}
    _, instances = Shapes(World(distractors_min=0, distractors_max=0)).instances("shape-0007", "0", 64)
    assert instances.max() == 1
    seen = [shapes.draw(7, s, 64, World(distractors_min=2, distractors_max=2))[1] for s in range(9)]
    assert max(instances.max() for instances in seen) == 3


def test_share_texture_gives_the_distractors_the_targets_surface_only():
    plain, shared = (
        scene(8, 1, distractors_min=3, distractors_max=3),
        scene(8, 1, distractors_min=3, distractors_max=3, share="texture"),
    )
    own = shapes._look(8)[1]

    def off(surface: Surface) -> np.ndarray:  # in units of what varies within a class
        return np.abs(surface.colours - own.colours).max(axis=0) / [0.15, 0.05, 25]

    for label in (2, 3, 4):
        surface = shared[label].surface
        assert (surface.pattern, surface.rim) == (own.pattern, own.rim)
        assert (off(surface) < 1).all()
        assert (off(plain[label].surface) > 1).any()
        assert np.array_equal(shared[label].outline.radius, plain[label].outline.radius)


def test_share_outline_gives_the_distractors_the_targets_outline_only():
    plain, shared = (
        scene(8, 1, distractors_min=3, distractors_max=3),
        scene(8, 1, distractors_min=3, distractors_max=3, share="outline"),
    )
    own = shapes._look(8)[0].radius
    for label in (2, 3, 4):
        assert shared[label].surface.pattern == plain[label].surface.pattern
        assert np.abs(shared[label].outline.radius - own).mean() < 0.06
        assert np.abs(plain[label].outline.radius - own).mean() > 0.06


def test_knobs_leave_the_target_where_it_is():
    base = scene(9, 0)[1]
    for knobs in ({"share": "texture"}, {"occlusion": 1.0}, {"contrast": 1.0}):
        other = scene(9, 0, **knobs)[1]
        assert other.centre == base.centre and np.array_equal(other.matrix, base.matrix)


def test_occlusion_is_the_share_of_pictures_with_an_occluder():
    assert not any(0 in scene(c, 0, occlusion=0.0) for c in range(30))
    assert all(0 in scene(c, 0, occlusion=1.0) for c in range(30))
    assert 0.2 < np.mean([0 in scene(c, s) for c in range(40) for s in range(5)]) < 0.4


def test_contrast_makes_the_ground_livelier():
    spread = [
        np.mean([ground(np.random.default_rng(n), 32, c).std((1, 2)) for n in range(20)]) for c in (0.0, 0.5, 1.0)
    ]
    assert spread[0] < 0.03 < spread[1] < 0.8 * spread[2]


def test_area_knobs_bound_the_target():
    world = World(distractors_min=0, distractors_max=0, occlusion=0.0, area_min=0.04, area_max=0.05)
    areas = [(shapes.draw(c, 0, 64, world)[1] == 1).mean() for c in range(40)]
    assert 0.02 < min(areas) and max(areas) < 0.06


def test_every_pattern_and_outline_is_finite_and_of_unit_size():
    seen = set()
    for seed in range(80):
        rng = np.random.default_rng(seed)
        outline, surface = random_outline(rng), random_surface(rng)
        seen.add(surface.pattern)
        assert np.isfinite(outline.radius).all() and outline.radius.min() > 0.2
        assert np.mean(outline.radius**2) == pytest.approx(1, abs=1e-4)
    assert seen == set(PATTERNS)


def test_inset_keeps_its_distance_from_the_contour():
    angles = np.linspace(-np.pi, np.pi, ANGLES, endpoint=False)
    ray = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert inset(np.ones(ANGLES, np.float32), 0.25) == pytest.approx(0.75, abs=1e-5)
    for seed in range(4):
        radius = random_outline(np.random.default_rng(seed)).radius
        inner = inset(radius, 0.15)
        contour, within = (radius[:, None] * ray)[::4], (inner[:, None] * ray)[::32]
        distance = np.linalg.norm(within[:, None] - contour, axis=2).min(axis=1)
        assert distance.min() > 0.15 - 0.03
        assert np.median(distance) == pytest.approx(0.15, abs=0.02)


def test_oklch_to_srgb_by_hand():
    # white, black, and sRGB red, whose OKLCH is 0.62796, 0.25768, 29.234 (Ottosson's table)
    colours = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.62796, 0.25768, 29.234]])
    expected = [[1, 1, 1], [0, 0, 0], [1, 0, 0]]
    np.testing.assert_allclose(oklch_to_srgb(colours), expected, atol=5e-3)
    beyond = oklch_to_srgb(np.array([[0.7, 0.5, 120.0]]))  # out of sRGB: paler, never out of range
    assert beyond.min() >= 0 and beyond.max() <= 1 and np.ptp(beyond) > 0.1


def test_open_dataset_gives_tensors():
    data = open_dataset("shapes", split="val", size=40)
    assert (len(data), data.fold, data.split) == (30, 0, "val")
    pictures = data[data.classes[3]]
    assert pictures.names == tuple("0123456789") and len(pictures) == 10
    image, mask = pictures[2]
    assert image.shape == (3, 40, 40) and image.dtype == torch.float32
    assert mask.shape == (40, 40) and mask.dtype == torch.uint8
    raw = Shapes().read(data.classes[3], "2", 40)
    assert torch.equal(image[1], torch.from_numpy(raw[0][..., 1]) / 255)
    assert torch.equal(mask, torch.from_numpy(raw[1]))
    assert torch.equal(pictures[-8][0], image) and len(pictures[1:4]) == 3
    with pytest.raises(IndexError):
        pictures[10]


def test_fingerprint_follows_content_and_size_not_the_spec():
    def of(spec: str, size: int = 64, fold: int = 0) -> str:
        return open_dataset(spec, split="val", fold=fold, size=size).fingerprint()

    assert of("shapes") == of("shapes:share=none,occlusion=0.3")
    distinct = [of("shapes"), of("shapes", 65), of("shapes", fold=1), of("shapes:occlusion=0")]
    assert len(set(distinct)) == 4


def test_a_knob_that_the_world_gains_voids_no_cache():
    @dataclass(frozen=True)
    class Later(World):
        gravity: float = 9.8

    def of(world: World) -> str:
        return Shapes(world).fingerprint("shape-0001", "3")

    assert of(World()) == of(Later()) == of(Later(extra=7)) == "shapes v3 shape-0001 3"
    assert of(World(occlusion=0.9)) == of(Later(occlusion=0.9)) != of(Later())
    assert of(Later(gravity=1.6)) == "shapes v3 gravity=1.6 shape-0001 3"


def test_knobs_are_read_from_the_spec():
    data = open_dataset("shapes:distractors_max=3, share=texture", split="test", fold=3, size=64)
    assert data.reader == Shapes(World(distractors_max=3, share="texture"))
    assert data.classes[0] == "shape-0300"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("shape", "did you mean 'shapes'"),
        ("", "unknown data set"),
        ("folder:", "folder:PATH"),
        ("shapes:", "write KNOB=VALUE"),
        ("shapes:distractor_max=1", "did you mean 'distractors_max'"),
        ("shapes:distractors_max=many", "distractors_max = 'many': use int"),
        ("shapes:distractors_max=0", "distractors_min = 2: is more than distractors_max = 0"),
        ("shapes:occlusion=1.5", "occlusion = 1.5: use 0 to 1"),
        ("shapes:contrast=nan", "contrast = 'nan': use float"),
        ("shapes:area_max=0.6", "area_max = 0.6: use 0.01 to 0.5"),
        ("shapes:share", "'share' in .*: write KNOB=VALUE"),
        ("shapes:share=none,share=none", "once"),
        ("shapes:share=outlines", "did you mean 'outline'"),
    ],
)
def test_bad_specs_are_named_with_their_mend(spec, message):
    with pytest.raises(InputError, match=message) as error:
        open_dataset(spec, split="train", size=64)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [{"split": "tset"}, {"fold": 4}, {"fold": -1}, {"size": 0}, {"size": 31}])
def test_bad_split_fold_and_size(bad):
    with pytest.raises(InputError):
        open_dataset("shapes", **({"split": "test", "fold": 0, "size": 64} | bad))


def test_unknown_names_are_input_errors():
    data = open_dataset("shapes", split="test", size=64)
    with pytest.raises(InputError, match="did you mean 'shape-0") as error:
        data["shape-001"]
    assert not isinstance(error.value, KeyError)
    with pytest.raises(InputError):
        data["shape-0100"]  # a class, but not of this split
    for name, picture in (("shape-7", "0"), ("form-0001", "0"), ("shape-0001", "a")):
        with pytest.raises(InputError):
            Shapes().read(name, picture, 64)
