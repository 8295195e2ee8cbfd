"""The paper's Fig. 2 for a network of ours, and its honest sister: the ten worst episodes.

    python tools/qualitative.py build/shapes --data shapes --checkpoint intended-lite0-shapes
    python tools/qualitative.py build/photos --data folder:path/to/photos \
      --checkpoint best-lite0-photos

``examples.png`` shows the first episode of each of eight classes, as the list has them: nobody
chose them. ``worst.png`` shows the ten episodes of the whole list with the lowest IoU.
"""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure

from fss import load
from fss.data import open_dataset
from fss.data.dataset import Dataset
from fss.episodes import Episode, EpisodeList
from fss.errors import InputError
from fss.evaluate import network, tally_episodes
from fss.features import CachedFeatures
from fss.files import write_atomically
from fss.model import DANet
from fss.viz import add_error_legend, error_map, outline, picture_grid

NAMES = ("examples", "worst")
EXAMPLES, WORST = 8, 10


def figures(
    out: tyro.conf.Positional[Path],
    data: str,
    checkpoint: str,
    episodes: int = 1000,
    seed: int = 0,
) -> None:
    """Draw both figures into a folder.

    Args:
        out: the folder.
        data: the data set's spec; its test classes of fold 0 are shown.
        checkpoint: name or path of the weights.
        episodes: of the list, one shot.
        seed: of the list.
    """
    try:
        model = load(checkpoint).eval()
        dataset = open_dataset(data, split="test", fold=0, size=model.trained["size"])
        sampled = EpisodeList.sample(dataset, shots=1, episodes=episodes, seed=seed)
        for name, figure in zip(NAMES, _figures(model, dataset, sampled), strict=True):
            png = BytesIO()
            figure.savefig(png, format="png", dpi=100)
            write_atomically(out / f"{name}.png", png.getvalue())
            print(f"{out / name}.png")
    except InputError as error:
        raise SystemExit(str(error)) from error


def _figures(model: DANet, dataset: Dataset, sampled: EpisodeList) -> tuple[Figure, Figure]:
    features = CachedFeatures(model, dataset)
    tally = tally_episodes(network(model), features, dataset, sampled.episodes)
    _, intersection, union, *_ = tally.counts.T
    ious = (intersection / union.clip(1)).tolist()
    first: dict[str, int] = {}
    for number, episode in enumerate(sampled):
        first.setdefault(episode.class_name, number)
    examples = list(first.values())[:EXAMPLES]
    once = {episode: number for number, episode in enumerate(sampled)}  # some are drawn twice
    worst = sorted(once.values(), key=lambda number: ious[number])[:WORST]
    drawn = [_draw(model, dataset, [(sampled[n], ious[n]) for n in part]) for part in (examples, worst)]
    return drawn[0], drawn[1]


@torch.no_grad()
def _draw(model: DANet, dataset: Dataset, shown: list[tuple[Episode, float]]) -> Figure:
    """Draw a column an episode, as Fig. 2 of the paper: support, query with the truth, result."""
    columns, targets = [], []
    for episode, _ in shown:
        images = dataset[episode.class_name]
        support, mask = images[images.names.index(episode.support[0])]
        query, target = images[images.names.index(episode.query)]
        found = model(query[None], support[None, None], mask[None, None]).mask()[0]
        columns.append((outline(support, mask), outline(query, target), error_map(query, found, target)))
        targets.append(target.numpy())
    height, width = columns[0][0].shape[:2]
    pictures = [column[row] for row in range(3) for column in columns]
    figure, axes = picture_grid(pictures, 3, (1.3 * len(shown) + 0.3, 3 * 1.3 * height / width + 0.7))
    for axis, (episode, iou) in zip(axes[-1], shown, strict=True):
        axis.set_xlabel(f"{episode.class_name}\nIoU {100 * iou:.0f} %", fontsize=9)
    for axis, head in zip(axes[:, 0], ("support", "query and truth", "result"), strict=True):
        axis.set_ylabel(head, fontsize=9)
    add_error_legend(figure, np.stack(targets))
    return figure


if __name__ == "__main__":
    tyro.cli(figures)
