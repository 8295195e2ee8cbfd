"""Single episodes to explore: drawn with knobs, with another support, or of one's own pictures.

An episode is an ``EpisodeBatch`` without its batch axis; where the truth is not known, its target
is 255 all over (see ``is_known``).
"""

from collections.abc import Sequence

import numpy as np
import torch

from fss.data.dataset import to_tensor
from fss.data.pictures import IGNORE, letterbox_image, letterbox_mask
from fss.data.shapes import Shapes, World, endless
from fss.episodes import EpisodeBatch
from fss.errors import InputError, nearest

OWN, DISTRACTOR, OTHER = "its own class", "a distractor's class", "another class"
EMPTY, ITSELF = "an empty mask", "the query itself"
SUPPORTS = (OWN, DISTRACTOR, OTHER, EMPTY, ITSELF)
"""What may be shown to the network as support, of the class that is asked for or not."""


def drawn(
    class_name: str,
    *,
    query: int = 9,
    shots: int = 1,
    world: World | None = None,
    support: str = OWN,
    size: int = 224,
) -> EpisodeBatch:
    """Draw an episode of the shapes world whose knobs change the query alone.

    Args:
        class_name: such as ``"shape-0042"``.
        query: number of the class's picture that is asked about; the support are the first others.
        shots: number of support pictures.
        world: the knobs of the query's picture; the support is drawn with their defaults.
        support: one of ``SUPPORTS``. With a distractor's class, that of the distractor of which
            most is seen, the target is that distractor; with another class it is empty.
        size: of the pictures, in pixels.

    Raises:
        InputError: no such class or support, or no distractor of another class.
    """
    world = world or World()
    if support not in SUPPORTS:
        raise InputError(f"no support {support!r}; {nearest(support, SUPPORTS)}")
    if shots < 1:
        raise InputError(f"shots = {shots}: an episode needs at least 1 support picture")
    image, instances = Shapes(world).instances(class_name, str(query), size)
    label, shown = 1, class_name
    if support == DISTRACTOR:
        seen = np.bincount(instances.ravel(), minlength=3)[2:]
        if world.share != "none" or not seen.any():
            raise InputError(
                "this query has no distractor of a class of its own; set the distractors to 1 or "
                "more, and let them share nothing"
            )
        label = int(seen.argmax()) + 2
        shown = Shapes(world).class_of(class_name, str(query), label)
    if support == OTHER:  # beyond all folds, and no distractor ever
        shown, label = endless(90_000, 1)[0], 256
    names = [str(n) for n in range(shots + 1) if n != query][:shots]
    pairs = [Shapes().read(shown, name, size) for name in names]
    episode = _episode(image, (instances == label).astype(np.uint8), pairs)
    return swap(episode, support) if support in (EMPTY, ITSELF) else episode


def is_known(episode: EpisodeBatch) -> bool:
    """Whether the truth of the query is known anywhere."""
    return not bool((episode.target == IGNORE).all())


def swap(episode: EpisodeBatch, support: str, other: EpisodeBatch | None = None) -> EpisodeBatch:
    """Show the network another support than the episode's own.

    Args:
        episode: what is asked.
        support: one of ``SUPPORTS`` (no distractor's). The target stays, but with another class:
            there is nothing to be found then.
        other: an episode of another class, whose support is taken.

    Raises:
        InputError: no such support, no other episode, or the query's own mask is not known.
    """
    if support == OWN:
        return episode
    if support == EMPTY:
        return episode._replace(mask=torch.zeros_like(episode.mask))
    if support == ITSELF:
        if not is_known(episode):
            raise InputError("the query's own mask is not known; paint it to ask the query itself")
        return episode._replace(support=episode.query[None], mask=episode.target[None])
    if support == OTHER and other is not None:
        target = torch.where(episode.target == 1, 0, episode.target)
        return episode._replace(support=other.support, mask=other.mask, target=target)
    raise InputError(f"cannot show {support!r}; {nearest(support, (OWN, EMPTY, ITSELF, OTHER))}")


def of_pictures(
    support: Sequence[tuple[np.ndarray, np.ndarray]],
    query: np.ndarray,
    *,
    target: np.ndarray | None = None,
    size: int = 256,
) -> EpisodeBatch:
    """Make an episode of pictures of any size, each fitted into a square as ``fss predict`` does.

    Args:
        support: pictures uint8 [H,W,3] and labels uint8 [H,W] (1 = object).
        query: picture uint8 [H,W,3].
        target: labels of the query, where they are known.
        size: side of the square, in pixels.

    Raises:
        InputError: no support picture.
    """
    if not support:
        raise InputError("there is no support picture; add one and label its object")
    pairs = [(letterbox_image(image, size), letterbox_mask(mask, size)) for image, mask in support]
    unknown = np.full((size, size), IGNORE, np.uint8)
    truth = unknown if target is None else letterbox_mask(target, size)
    return _episode(letterbox_image(query, size), truth, pairs)


def _episode(query: np.ndarray, target: np.ndarray, support: Sequence[tuple[np.ndarray, np.ndarray]]) -> EpisodeBatch:
    """Arrays uint8 as the tensors that a network takes."""
    return EpisodeBatch(
        to_tensor(query),
        torch.from_numpy(target),
        torch.stack([to_tensor(image) for image, _ in support]),
        torch.from_numpy(np.stack([mask for _, mask in support])),
    )
