"""Episodes to look at: knobs, swapped supports, own pictures."""

import numpy as np
import pytest
import torch

from fss.data import open_dataset, shapes
from fss.data.shapes import Shapes, World
from fss.errors import InputError
from fss.explorer.scenes import (
    DISTRACTOR,
    EMPTY,
    ITSELF,
    OTHER,
    OWN,
    SUPPORTS,
    drawn,
    of_pictures,
    swap,
)

CLASS, SIZE = "shape-0042", 64


def test_drawn_is_an_episode_of_the_data_set():
    images = open_dataset("shapes", split="test", fold=0, size=SIZE)[CLASS]
    episode = drawn(CLASS, query=1, shots=3, size=SIZE)
    assert torch.equal(episode.query, images[1][0]) and torch.equal(episode.target, images[1][1])
    for shot, n in enumerate((0, 2, 3)):  # the first pictures that are not the query
        assert torch.equal(episode.support[shot], images[n][0])
        assert torch.equal(episode.mask[shot], images[n][1])


def test_knobs_turn_the_query_alone():
    world = World(distractors_min=0, distractors_max=0, occlusion=0, area_min=0.2, area_max=0.2)
    plain, turned = drawn(CLASS, size=SIZE), drawn(CLASS, size=SIZE, world=world)
    assert torch.equal(plain.support, turned.support) and torch.equal(plain.mask, turned.mask)
    assert not torch.equal(plain.query, turned.query)
    assert float(turned.target.float().mean()) == pytest.approx(0.2, abs=0.03)


def test_a_distractors_class_is_labelled_and_asked_for():
    world = World(distractors_min=2, distractors_max=2)
    own, other = (drawn(CLASS, world=world, size=SIZE, support=s) for s in (OWN, DISTRACTOR))
    assert torch.equal(own.query, other.query)
    _, instances = Shapes(world).instances(CLASS, "9", SIZE)
    counts = np.bincount(instances.ravel())
    label = 2 + int(counts[2:].argmax())
    assert np.array_equal(other.target == 1, instances == label)
    name = Shapes(world).class_of(CLASS, "9", label)
    image, mask = Shapes().read(name, "0", SIZE)
    assert np.array_equal(other.mask[0], mask)
    assert np.array_equal(np.rint(255 * other.support[0].numpy()).transpose(1, 2, 0), image)


def test_class_of_an_instance_has_its_looks():
    world = World(distractors_min=3, distractors_max=3)
    for sample in range(8):
        for thing, label in shapes._scene(42, sample, world):
            if label:  # not the occluder
                name = Shapes(world).class_of(CLASS, str(sample), label)
                outline, surface = shapes._look(int(name.removeprefix("shape-")))
                assert (name == CLASS) == (label == 1)
                assert thing.surface.pattern == surface.pattern
                assert thing.outline.holes == outline.holes


@pytest.mark.parametrize("world", [World(distractors_min=0, distractors_max=0), World(share="texture")])
def test_no_distractor_of_a_class_of_its_own(world):
    with pytest.raises(InputError, match="no distractor of a class of its own"):
        drawn(CLASS, world=world, size=SIZE, support=DISTRACTOR)


def test_swaps():
    own = drawn(CLASS, shots=2, size=SIZE)
    assert swap(own, OWN) is own
    empty = swap(own, EMPTY)
    assert not empty.mask.any() and torch.equal(empty.target, own.target)
    itself = swap(own, ITSELF)
    assert torch.equal(itself.support[0], own.query) and torch.equal(itself.mask[0], own.target)
    other = drawn("shape-0007", size=SIZE)
    swapped = swap(own, OTHER, other)
    assert torch.equal(swapped.support, other.support) and not (swapped.target == 1).any()
    for support in (EMPTY, ITSELF):
        assert all(
            torch.equal(a, b)
            for a, b in zip(drawn(CLASS, shots=2, size=SIZE, support=support), swap(own, support), strict=True)
        )
    nothing = drawn(CLASS, size=SIZE, support=OTHER)
    assert nothing.mask.any() and not nothing.target.any()
    assert not torch.equal(nothing.support, own.support[:1])


def test_bad_swaps():
    own = drawn(CLASS, size=SIZE)
    unknown = own._replace(target=torch.full_like(own.target, 255))
    with pytest.raises(InputError, match="mask is not known"):
        swap(unknown, ITSELF)
    for support in (OTHER, "an empty masc"):
        with pytest.raises(InputError, match=support):
            swap(own, support)
    with pytest.raises(InputError, match="did you mean 'another class'"):
        drawn(CLASS, support="another clas")
    with pytest.raises(InputError, match="at least 1 support"):
        drawn(CLASS, shots=0)
    assert len(set(SUPPORTS)) == 5


def test_own_pictures_are_letterboxed():
    image = np.full((20, 40, 3), 200, np.uint8)
    mask = np.zeros((20, 40), np.uint8)
    mask[:, :20] = 1
    episode = of_pictures([(image, mask)], np.full((40, 10, 3), 10, np.uint8), size=40)
    assert episode.support.shape == (1, 3, 40, 40) and (episode.target == 255).all()
    assert (episode.mask[0, 10:30, :20] == 1).all() and (episode.mask[0, :10] == 255).all()
    assert float(episode.query[0, 0, 20]) == pytest.approx(10 / 255)
    known = of_pictures([(image, mask)], image, target=mask, size=40)
    assert torch.equal(known.target, known.mask[0])
    with pytest.raises(InputError, match="no support picture"):
        of_pictures([], image)
