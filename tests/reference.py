"""Slow, plain loops that say again what the vectorised code computes. Oracles for the tests."""

import math
from collections.abc import Sequence

import numpy as np

Picture = Sequence[Sequence[int]]


def episode_counts(prediction: Picture, target: Picture) -> tuple[int, int, int, int]:
    """Count one episode pixel by pixel: foreground I and U, background I and U."""
    fg_intersection = fg_union = bg_intersection = bg_union = 0
    for predicted_row, target_row in zip(prediction, target, strict=True):
        for predicted, label in zip(predicted_row, target_row, strict=True):
            if label == 255:
                continue
            if predicted == 1 and label == 1:
                fg_intersection += 1
            if predicted == 1 or label == 1:
                fg_union += 1
            if predicted == 0 and label == 0:
                bg_intersection += 1
            if predicted == 0 or label == 0:
                bg_union += 1
    return fg_intersection, fg_union, bg_intersection, bg_union


def class_ious(episodes: Sequence[tuple[int, Picture, Picture]]) -> dict[int, float]:
    """IoU of every class that has a union, from (class id, prediction, target)."""
    ious = {}
    for class_id in sorted({episode[0] for episode in episodes}):
        intersection = union = 0
        for other, prediction, target in episodes:
            if other == class_id:
                counts = episode_counts(prediction, target)
                intersection += counts[0]
                union += counts[1]
        if union > 0:
            ious[class_id] = intersection / union
    return ious


def fb_iou(episodes: Sequence[tuple[int, Picture, Picture]]) -> float:
    """Mean of foreground and background IoU over all pixels of all episodes."""
    sums = [0, 0, 0, 0]
    for _, prediction, target in episodes:
        for k, count in enumerate(episode_counts(prediction, target)):
            sums[k] += count
    return (sums[0] / sums[1] + sums[2] / sums[3]) / 2


def mean_episode_iou(episodes: Sequence[tuple[int, Picture, Picture]]) -> float:
    """Mean of the episodes' foreground IoUs; nothing shown and nothing predicted is right."""
    ious = []
    for _, prediction, target in episodes:
        if all(label == 255 for row in target for label in row):
            continue
        intersection, union, _, _ = episode_counts(prediction, target)
        ious.append(intersection / union if union > 0 else 1.0)
    return sum(ious) / len(ious)


def miou_of_counts(episodes: Sequence[tuple[int, str, int, int]]) -> float:
    """Mean of the classes' IoUs, from (class id, picture, I, U) of every episode."""
    ious = []
    for class_id in sorted({episode[0] for episode in episodes}):
        intersection = sum(i for other, _, i, _ in episodes if other == class_id)
        union = sum(u for other, _, _, u in episodes if other == class_id)
        if union > 0:
            ious.append(intersection / union)
    return sum(ious) / len(ious) if ious else 0.0


def jackknife(sides, contrast):
    """Value, variance and degrees of freedom of a sum of mIoUs, picture after picture left out.

    ``sides`` holds a list of (class id, picture, I, U) for each mIoU, of one list of episodes.
    """

    def value_without(name):
        kept = [[episode for episode in side if episode[1] != name] for side in sides]
        return sum(factor * miou_of_counts(side) for side, factor in zip(kept, contrast, strict=True))

    groups = {}
    for name in sorted({episode[1] for episode in sides[0]}):
        classes = [episode[0] for episode in sides[0] if episode[1] == name]
        most = max(sorted(set(classes)), key=classes.count)  # the first of those asked as often
        groups.setdefault(most, []).append(name)
    alone = [names[0] for names in groups.values() if len(names) == 1]
    variance = spread = 0.0
    for names in [*(names for names in groups.values() if len(names) > 1), alone]:
        n = len(names)
        if n < 2:
            continue
        values = [value_without(name) for name in names]
        center = sum(values) / n
        part = (n - 1) / n * sum((value - center) ** 2 for value in values)
        variance, spread = variance + part, spread + part**2 / (n - 1)
    return value_without(None), variance, variance**2 / spread


# Attention (Eq. 2-7) and the prior, position by position. Arrays are numpy, one batch item a time:
# query [C,H,W], support [K,C,H,W], mask [K,H,W]; a projection is (weight [out,in], bias or None).


def project(picture, projection):
    """Apply a 1x1 convolution to [C,H,W]."""
    weight, bias = projection
    outputs, inputs = weight.shape
    _, height, width = picture.shape
    out = np.zeros((outputs, height, width))
    for y in range(height):
        for x in range(width):
            for o in range(outputs):
                total = 0.0 if bias is None else float(bias[o])
                for c in range(inputs):
                    total += weight[o, c] * picture[c, y, x]
                out[o, y, x] = total
    return out


def softmax_over(scores, allowed):
    """Softmax of a list over the allowed entries; over all of them where none is allowed."""
    if not any(allowed):
        allowed = [True] * len(scores)
    top = max(score for score, ok in zip(scores, allowed, strict=True) if ok)
    powers = [math.exp(score - top) if ok else 0.0 for score, ok in zip(scores, allowed, strict=True)]
    return [power / sum(powers) for power in powers]


def tokens_of(picture, kind):
    """Cut [C,H,W] into the things that attend: all numbers of a row, of a column, or of a pixel."""
    channels, height, width = picture.shape
    if kind == "rows":
        return [[picture[c, y, x] for c in range(channels) for x in range(width)] for y in range(height)]
    if kind == "cols":
        return [[picture[c, y, x] for c in range(channels) for y in range(height)] for x in range(width)]
    return [[picture[c, y, x] for c in range(channels)] for y in range(height) for x in range(width)]


def spatial_map(query, support, mask, projections, kind, *, scaled, mask_background):
    """Eq. 2 for one shot: A[i][j], query token i looks at support token j."""
    queries = tokens_of(project(query, projections["query"]), kind)
    keys = tokens_of(project(support, projections["key"]), kind)
    allowed = [True] * len(keys)
    if mask_background:
        allowed = [any(v > 0.5 for v in token) for token in tokens_of(mask[None], kind)]
    length = len(queries[0])
    result = []
    for q in queries:
        scores = []
        for k in keys:
            score = sum(a * b for a, b in zip(q, k, strict=True))
            scores.append(score / math.sqrt(length) if scaled else score)
        result.append(softmax_over(scores, allowed))
    return np.array(result)


def carry(attention, value, kind):
    """Give every token the attention-weighted sum of the value's tokens: [C,H,W]."""
    channels, height, width = value.shape
    out = np.zeros_like(value)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                total = 0.0
                if kind == "rows":
                    for j in range(height):
                        total += attention[y, j] * value[c, j, x]
                elif kind == "cols":
                    for j in range(width):
                        total += attention[x, j] * value[c, y, j]
                else:
                    for j in range(height * width):
                        total += attention[y * width + x, j] * value[c, j // width, j % width]
                out[c, y, x] = total
    return out


def spatial_attention(query, support, mask, projections, gates, *, value="query", **options):
    """Eq. 3 (gates rows, cols) or Eq. 5 (gate dense) -> output, {kind: [map of each shot]}."""
    own = project(query, projections["value"])
    out = own.copy()
    maps = {}
    for kind, gate in gates.items():
        maps[kind] = [
            spatial_map(query, shot, shot_mask, projections, kind, **options)
            for shot, shot_mask in zip(support, mask, strict=True)
        ]
        if value == "query":
            out += gate * carry(sum(maps[kind]) / len(support), own, kind)
        else:
            for attention, shot in zip(maps[kind], support, strict=True):
                out += gate * carry(attention, project(shot, projections["value"]), kind) / len(support)
    return out, maps


def channel_attention(support, mask, squeeze, expand, *, masked):
    """Eq. 6 and 7 -> prototype [C], weights [K,C,H,W]."""
    shots, channels, height, width = support.shape
    prototype = np.zeros(channels)
    weights = np.zeros(support.shape)
    for k in range(shots):
        activated = project(np.maximum(project(support[k], squeeze), 0), expand)
        places = [(y, x) for y in range(height) for x in range(width)]
        allowed = [mask[k, y, x] > 0.5 if masked else True for y, x in places]
        for c in range(channels):
            shares = softmax_over([activated[c, y, x] for y, x in places], allowed)
            for share, (y, x) in zip(shares, places, strict=True):
                weights[k, c, y, x] = share
                prototype[c] += share * activated[c, y, x] / shots
    return prototype, weights


def prior_mask(query, support):
    """PFENet's prior: best cosine with any position of a shot, stretched to 0..1, mean of shots."""
    _, height, width = query.shape
    total = np.zeros((height, width))
    for shot in support:
        best = np.full((height, width), -np.inf)
        for y in range(height):
            for x in range(width):
                a = query[:, y, x]
                for v in range(shot.shape[1]):
                    for u in range(shot.shape[2]):
                        b = shot[:, v, u]
                        norm = math.sqrt(sum(a * a)) * math.sqrt(sum(b * b))
                        best[y, x] = max(best[y, x], sum(a * b) / (norm + 1e-7))
        total += (best - best.min()) / (best.max() - best.min() + 1e-7)
    return total / len(support)


def attended_mask(query, support, mask, tau, *, centred):
    """Query [C,n] takes the labels mask [m] of the support places [C,m] that it resembles."""
    places = [query[:, i] for i in range(query.shape[1])]
    asked = [support[:, j] for j in range(support.shape[1])]
    mean = (sum(places) / len(places) + sum(asked) / len(asked)) / 2 if centred else 0 * places[0]
    found = []
    for place in places:
        scores = []
        for other in asked:
            a, b = place - mean, other - mean
            scores.append(math.exp(tau * float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))))
        found.append(sum(s * m for s, m in zip(scores, mask, strict=True)) / sum(scores))
    return np.array(found)


def prototype(features, weight):
    """Weighted mean of the places of features [C,n]."""
    total = sum(weight[j] * features[:, j] for j in range(features.shape[1]))
    return total / max(float(sum(weight)), 1e-6)


def nearer(query, object_, ground):
    """For each place of query [C,n]: cosine to one prototype minus cosine to the other."""

    def cosine(a, b):
        return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))

    places = [query[:, i] for i in range(query.shape[1])]
    return np.array([cosine(place, object_) - cosine(place, ground) for place in places])


def relations(query, support, masks):
    """The ten maps; both depths have one grid: query 2x[C,n], support 2x[C,m], masks [m]."""
    attended = [
        attended_mask(q, s, masks, 20.0, centred=centred)
        for q, s in zip(query, support, strict=True)
        for centred in (False, True)
    ]
    deep = list(zip(query, support, strict=True))
    contrasts = [nearer(q, prototype(s, masks), prototype(s, 1 - masks)) for q, s in deep]
    guess = attended[1] - 0.35 + attended[3] - 0.35 + contrasts[0] + contrasts[1]
    share = np.array([1 / (1 + math.exp(-3 * g)) for g in guess])
    again, alike = [], []
    for q, s in deep:
        protos, cosines = [], []
        for sure, labels, trust in ((share, masks, 1.0), (1 - share, 1 - masks, 0.5)):
            weight = [p * (1.001 if p > 0.6 else 0.001) for p in sure]
            own, given = prototype(q, weight), prototype(s, labels)
            given, own = given / np.linalg.norm(given), own / np.linalg.norm(own)
            protos.append(trust * given + own)
            cosines.append(float(given @ own))
        again.append(nearer(q, *protos))
        alike.append(np.full(q.shape[1], cosines[0]))
    return np.stack([*attended, *(4 * c for c in contrasts + again + alike)])
