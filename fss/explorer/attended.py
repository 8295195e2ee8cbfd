"""What one network says of one episode: its answer, and what a place of the query attends to."""

import torch
from torch import Tensor

from fss.attention import DenseAttention
from fss.data.pictures import IGNORE
from fss.episodes import EpisodeBatch
from fss.errors import InputError
from fss.model import DANet
from fss.resize import resize, share_of

MAPS = {
    "dense": "dense: a place asks all places",
    "light": "light: its row and its column ask",
    "rows": "light: its row alone asks",
    "cols": "light: its column alone asks",
    "match3": "match: by middle features (block3)",
    "match4": "match: by deep features (block4)",
    "prior": "prior: what resembles the object",
}
"""The maps of all networks and what a widget calls them; each network has some."""

BANDS = ("light", "rows", "cols")


class Attended:
    """The episode goes through the network once; rows of its maps are had one at a time.

    Of the kit's attention maps their queries and keys are kept, never a whole map. A dense module
    from elsewhere is shown by the map that its forward returns. Places are those of block2's
    feature map (28 x 28 for pictures of 224 pixels).

    Args:
        model: the network, in eval mode.
        episode: one episode without a batch axis, as ``EpisodeDataset`` gives them. A ``target`` of
            255 all over says that the truth is not known.

    Attributes:
        episode: on the CPU, as are all results.
        shots: the numbers of its support pictures, from 1 on.
        maps: the names (of ``MAPS``) of the maps that this network has.
        returned: those of them that a module returned as a whole; a temperature cannot change these.
        missing: what to say where the dense module returns no map; otherwise empty.
        grid: rows and columns of places.
        probability: of the object, [h,w].
        prediction: labels [h,w], 1 = object.
        prior: [H,W], 0..1: how much a place of the query resembles the object; or None.
        iou: of the prediction, 0..1; None where nothing is, or is known, to be found.

    Raises:
        InputError: the network has nothing to show, or the shapes are not those of an episode or of its map.
    """

    @torch.no_grad()
    def __init__(self, model: DANet, episode: EpisodeBatch) -> None:
        if episode.query.dim() != 3 or episode.support.dim() != 4:
            raise InputError(
                f"query {list(episode.query.shape)} and support {list(episode.support.shape)} are "
                "not one episode, [3,h,w] and [K,3,h,w]; pick one of the batch"
            )
        self.episode = EpisodeBatch(*(tensor.cpu() for tensor in episode))
        device = model.backbone.mean.device
        query, _, support, mask = (tensor[None].to(device) for tensor in episode)
        code = model.encode_support(support, mask)
        features = model.backbone(query)
        self.shots = [str(n) for n in range(1, len(episode.support) + 1)]
        self.size = (query.shape[2], query.shape[3])
        # Only of the kit's own forward do the tokens surely make the map that it used.
        foreign = model.dense is not None and type(model.dense).forward is not DenseAttention.forward
        prediction = model.segment_features(features, code, self.size, need_maps=foreign)
        logits = prediction.logits[0].cpu()
        self.probability = logits.softmax(0)[1]
        self.prediction = (logits[1] > logits[0]).long()
        self.iou = _iou(self.prediction, self.episode.target)

        self.aligned = model.backbone.aligned
        self._tokens = model.tokens(features, code)
        if foreign:
            self._tokens.pop("dense", None)
        prior = model.prior(features, code)[1].get("prior")
        self.prior = None if prior is None else prior[0, 0].cpu()
        names = ("block2", "match3", "match4")
        self._grids = {name: (map_.shape[-2], map_.shape[-1]) for name, map_ in zip(names, features, strict=True)}
        self.grid = self._grids["block2"]
        self._returned = self._dense(model.dense, prediction.attention, len(support[0])) if foreign else {}
        self.returned = tuple(self._returned)
        self.missing = ""
        if foreign and not self._returned:
            self.missing = f"{type(model.dense).__name__} returns no map to show"
        has = {*self._tokens, *self._returned} | ({"light"} if "rows" in self._tokens else set())
        has |= set() if self.prior is None else {"prior"}
        self.maps = tuple(name for name in MAPS if name in has)
        if not self.maps:
            raise InputError(self.missing or "this network has neither attention nor a prior: nothing to show")

    def _dense(self, module: torch.nn.Module | None, maps: dict[str, Tensor], shots: int) -> dict[str, Tensor]:
        """The dense map [K,N,N] that a module returned: by shot, or the mean of the shots for each."""
        found = maps.get("dense_by_shot")
        if found is None and "dense" in maps:
            found = maps["dense"].unsqueeze(1).expand(-1, shots, -1, -1)
        if found is None:
            return {}
        places = self.grid[0] * self.grid[1]
        if found.shape != (1, shots, places, places):
            raise InputError(
                f"{type(module).__name__} returns a map {list(found.shape)}; for this episode it is "
                f"dense_by_shot {[1, shots, places, places]} or dense {[1, places, places]}"
            )
        return {"dense": found[0].float().cpu()}

    @torch.no_grad()
    def shares(self, name: str, place: tuple[int, int], *, temperature: float = 1.0) -> Tensor:
        """Return how a place divides its attention among the support places: [K,H,W].

        ``dense``, ``light``, ``rows`` and ``cols`` sum to one over each support picture (the share
        of a row or column is spread evenly over its places); ``match3`` and ``match4``, on grids of
        their own, over all of them together. Scores are divided by ``temperature``; at 1 the map is
        the network's own, and so is a map of ``returned`` at every temperature.
        """
        (row, col), (rows, cols) = place, self.grid
        if name in BANDS:
            by_row = self._row("rows", row, temperature)[:, :, None].expand(-1, -1, cols) / cols
            by_col = self._row("cols", col, temperature)[:, None, :].expand(-1, rows, -1) / rows
            return {"rows": by_row, "cols": by_col}.get(name, (by_row + by_col) / 2)
        height, width = self._grids.get(name, self.grid)
        i = row * height // rows * width + col * width // cols
        return self._row(name, i, temperature).reshape(-1, height, width)

    def _row(self, name: str, i: int, temperature: float) -> Tensor:
        if name in self._returned:
            return self._returned[name][:, i]
        return self._tokens[name].row(i, temperature=temperature)[0].float().cpu()

    def object_share(self, grid: tuple[int, int]) -> Tensor:
        """Return how much of each support place is object, 0..1: [K,H,W] on the grid of a map."""
        return share_of(self.episode.mask, 1, torch.empty(1, *grid), aligned=self.aligned)[:, 0]

    def enlarged(self, map_: Tensor) -> Tensor:
        """Return a map [H,W] at the size of the pictures, [h,w]."""
        return resize(map_[None], self.size, aligned=self.aligned)[0]

    def cells(self, pixels: Tensor) -> Tensor:
        """Return the means of pixels [h,w] over the places, [H,W]."""
        return torch.nn.functional.adaptive_avg_pool2d(pixels[None], self.grid)[0]

    def place_at(self, y: float, x: float) -> tuple[int, int]:
        """Return the place under a point of the query, in fractions of its height and width.

        Raises:
            InputError: outside the picture.
        """
        if not (0 <= y < 1 and 0 <= x < 1):
            raise InputError("that point lies outside the picture; choose one inside it")
        rows, cols = self.grid
        if self.aligned:  # the first and the last place lie on the rim
            return round(y * (rows - 1)), round(x * (cols - 1))
        return int(y * rows), int(x * cols)

    def cell(self, row: int, col: int, grid: tuple[int, int] | None = None) -> tuple[float, float, float, float]:
        """Return top, left, bottom and right of a place, in fractions of the picture."""
        edges = []
        for n, count in zip((row, col), grid or self.grid, strict=True):
            if self.aligned and count > 1:
                ends = (n - 0.5) / (count - 1), (n + 0.5) / (count - 1)
            else:
                ends = n / count, (n + 1) / count
            edges.append((max(0.0, ends[0]), min(1.0, ends[1])))
        (top, bottom), (left, right) = edges
        return top, left, bottom, right


def _iou(prediction: Tensor, target: Tensor) -> float | None:
    known, truth = target != IGNORE, target == 1
    found = (prediction == 1) & known
    union = int((found | truth).sum())
    return int((found & truth).sum()) / union if union else None
