"""The paper's Fig. 2: a column an episode."""

import importlib.util
from pathlib import Path

import numpy as np
from tiny import boxes, network

from fss import viz
from fss.episodes import EpisodeList

spec = importlib.util.spec_from_file_location("qualitative", Path(__file__).parents[1] / "tools" / "qualitative.py")
qualitative = importlib.util.module_from_spec(spec)
spec.loader.exec_module(qualitative)


def test_a_figure_has_a_column_an_episode():
    data, model = boxes(), network()
    episodes = [*EpisodeList.sample(data, shots=1, episodes=3, seed=0)]
    figure = qualitative._draw(model, data, [(episode, n / 4) for n, episode in enumerate(episodes)])
    axes = np.array(figure.axes).reshape(3, 3)
    assert [axis.get_xlabel() for axis in axes[2]] == [
        f"{episode.class_name}\nIoU {score} %" for episode, score in zip(episodes, (0, 25, 50), strict=True)
    ]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["support", "query and truth", "result"]
    images = data[episodes[1].class_name]
    (support, mask), (query, target) = (
        images[images.names.index(name)] for name in (episodes[1].support[0], episodes[1].query)
    )
    found = model(query[None], support[None, None], mask[None, None]).mask()[0]
    expected = viz.outline(support, mask), viz.outline(query, target), viz.error_map(query, found, target)
    for axis, picture in zip(axes[:, 1], expected, strict=True):
        np.testing.assert_array_equal(axis.images[0].get_array(), picture)
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "ignored"
