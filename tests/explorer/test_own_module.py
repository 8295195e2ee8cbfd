"""A network whose dense attention comes from elsewhere is shown by the map that the module returns."""

import subprocess
import sys

import pytest
import torch
from test_attended import SHOTS, episode, model, whole_maps
from tiny import network
from torch import nn

from fss.attention import DenseAttention, DenseMaps
from fss.errors import InputError
from fss.explorer import Explorer, explore
from fss.explorer.attended import Attended


class Cosine(nn.Module):
    """Attention by the cosine; ``gives`` says which maps come with the answer."""

    def __init__(self, gives):
        super().__init__()
        self.gives = gives

    def forward(self, query, support, mask=None, *, need_map=True):
        q, k = nn.functional.normalize(query.flatten(2), dim=1), nn.functional.normalize(support.flatten(3), dim=2)
        shots = (10 * torch.einsum("bci,bkcj->bkij", q, k)).softmax(-1)
        out = torch.einsum("bij,bcj->bci", shots.mean(1), query.flatten(2)).view_as(query)
        maps = {
            "both": DenseMaps(shots.mean(1), shots),
            "mean": DenseMaps(shots.mean(1), None),
            "none": DenseMaps(None, None),
            "wrong": DenseMaps(None, shots[..., :-1]),
        }
        return out, maps[self.gives]


def own(gives, arm="published"):
    made = model(arm)
    made.dense = Cosine(gives)
    return made


@pytest.mark.parametrize("gives", ["both", "mean"])
def test_its_map_is_shown(gives):
    made, e = own(gives), episode()
    attended, prediction = Attended(made, e), whole_maps(made, e)
    torch.testing.assert_close(attended.probability, prediction.logits.softmax(1)[0, 1])
    assert attended.maps == ("dense", "light", "rows", "cols", "prior") and attended.returned == ("dense",)
    by_shot = prediction.attention["dense" if gives == "mean" else "dense_by_shot"]
    expected = by_shot.reshape(-1, 45, 5, 9)[:, 1 * 9 + 7].expand(SHOTS, -1, -1)
    torch.testing.assert_close(attended.shares("dense", (1, 7)), expected)
    assert torch.equal(attended.shares("dense", (1, 7), temperature=9), attended.shares("dense", (1, 7)))


def test_a_subclass_of_the_kits_module_is_shown_by_its_own_map():
    class Flipped(DenseAttention):
        def forward(self, query, support, mask=None, *, need_map=True):
            out, maps = super().forward(query, support, mask, need_map=True)
            return out, DenseMaps(maps.dense.flip(-1), maps.dense_by_shot.flip(-1))

    made = model("published")
    made.dense = Flipped(8)
    attended, maps = Attended(made, episode()), whole_maps(made, episode()).attention
    expected = maps["dense_by_shot"][0, :, 2 * 9 + 3].reshape(SHOTS, 5, 9)
    torch.testing.assert_close(attended.shares("dense", (2, 3)), expected)


def test_it_takes_no_temperature():
    explorer = Explorer(own("both"), episode())
    with pytest.raises(InputError, match="takes no temperature"):
        explorer.choose(temperature=5)
    explorer.choose(map="light", temperature=5)
    assert "temperature 5" in explorer.text()
    explorer.choose(map="dense")
    assert "temperature" not in explorer.text() and explorer.render().startswith(b"\x89PNG")


def test_without_a_map_the_explorer_says_so():
    explorer = Explorer(own("none"), episode())
    assert "dense" not in explorer.attended.maps
    assert "Cosine returns no map to show" in explorer.text() and explorer.render()
    bare = network(lda=False, pca=False, prior=None)
    bare.dense = Cosine("none")
    with pytest.raises(InputError, match="Cosine returns no map to show"):
        Attended(bare, episode())


def test_a_map_of_another_shape_is_named():
    with pytest.raises(InputError, match=r"Cosine returns a map \[1, 2, 45, 44\]; .*\[1, 2, 45, 45\]"):
        Attended(own("wrong"), episode())


def test_the_widget_takes_the_network_itself():
    box = explore(own("both"), networks=(model("best"),))
    assert box.explorer.attended.returned == ("dense",) and box.temperature.disabled
    box.select(3, 3)
    assert box.message == box.explorer.text()
    box.map.value = "light"
    assert not box.temperature.disabled
    box.network.index = 1
    assert box.explorer.map == "match3" and box.message == box.explorer.text()
    box.close()


def test_the_explorer_comes_without_widgets_and_says_what_they_need():
    script = (
        "import sys; sys.modules['ipywidgets'] = None\n"
        "import fss.explorer\n"
        "try:\n    fss.explorer.explore\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("the widgets need ipywidgets: pip install 'fss-attention-kit[notebooks]'")
