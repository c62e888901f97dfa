"""What the interactive page holds, as plain JSON: rows, clusters, their tree, and how they are drawn."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from raydc.clustering.metrics.contrast import contrast
from raydc.pipelines.report import pictures
from raydc.pipelines.report.facts import Facts, Sample, project, typical
from raydc.pipelines.report.words import STABLE, contrasted

COLUMNS = 16
"""Columns that rows can be coloured and filtered by, at most: of numbers those with the largest effects."""
RANKED = 2**12
"""Rows of which effects are taken."""
LEVELS = 20
"""Categories of a column that have a colour of their own; the others are one."""
CHARACTERS, EXCERPT = 2**23, 200
"""Characters of texts in the page, and of one text; at most."""
THUMBNAILS, PIXELS, EDGES = 2**14, 2**24, (32, 64)
"""Thumbnails and pixels of their sheet at most, and the least and the largest edge of one."""
MEMBERS, NEAREST, FEATURES, TERMS = 6, 3, 3, 8
"""Typical members, nearest clusters, features and terms that are told of a cluster."""
GRID = 256
"""Cells of a density picture along each side."""


def contents(facts: Facts) -> dict[str, Any]:
    """All of it. Raises ValueError where there are no rows to show."""
    looked = facts.sample
    if looked is None:
        raise ValueError("there are no rows to show")
    chosen = stratified(looked.labels, facts.shown)
    sample = looked.take(chosen)
    given = facts.model.labels.given
    joins = [(given[join.first], given[join.second]) for join in facts.model.labels.joins]
    pixels = len(facts.model.shape) == 3
    return {
        "clusters": _clusters(facts, sample),
        "joins": joins,
        "levels": facts.summary.get("levels") or {},
        "stable": STABLE,
        "labels": _packed(sample.labels, np.int32),
        "ids": [str(one) for one in sample.ids.tolist()],
        "excerpts": _excerpts(sample),
        "columns": _columns(sample, pixels),
        "maps": _maps(looked, chosen),
        "thumbnails": thumbnails(sample, facts.model.shape),
        "ramp": _colours([colormaps["viridis"](share)[:3] for share in np.linspace(0, 1, 64)]),
        "palette": _colours([pictures.colour(place) for place in range(40)]),
    }


def stratified(labels: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Positions of at most so many rows [n], ascending: of each cluster an equal share, and what small ones leave over
    is shared by the others.
    """
    if len(labels) <= most:
        return np.arange(len(labels))
    clusters, place, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    quota, left = np.zeros(len(clusters), np.int64), most
    for rank, cluster in enumerate(np.argsort(sizes, kind="stable")):
        quota[cluster] = min(sizes[cluster], left // (len(clusters) - rank))
        left -= quota[cluster]
    order = np.random.default_rng(0).permutation(len(labels))
    order = order[np.argsort(place[order], kind="stable")]
    starts = np.cumsum(sizes) - sizes
    rank_within = np.arange(len(labels)) - starts[place[order]]
    return np.sort(order[rank_within < quota[place[order]]])


def thumbnails(sample: Sample, shape: Sequence[int]) -> dict[str, Any] | None:
    """Rows that are pictures on one sheet: which, its layout, and the JPEG itself; None of other rows."""
    if len(shape) != 3 or not len(sample.rows):
        return None
    rows = _pictured(sample)
    across = math.ceil(math.sqrt(len(rows)))
    edge = int(np.clip(math.isqrt(PIXELS // across**2), *EDGES))
    edge = min(edge, max(EDGES[0], *shape[1:]))
    some = sample.rows[rows[:: max(1, len(rows) // 512)]]
    low, high = (float(np.quantile(some, share)) for share in (0.001, 0.999))
    sheet = Image.new("RGB" if shape[0] >= 3 else "L", (across * edge, across * edge))
    for place, row in enumerate(rows):
        pixels = np.asarray(sample.rows[row], np.float64).reshape(tuple(shape))
        grey = np.clip((pixels - low) / ((high - low) or 1.0) * 255, 0, 255).astype(np.uint8)
        picture = Image.fromarray(grey[:3].transpose(1, 2, 0) if shape[0] >= 3 else grey[0]).resize((edge, edge))
        sheet.paste(picture, (edge * (place % across), edge * (place // across)))
    return {"edge": edge, "across": across, "rows": rows.tolist(), "sheet": _picture(sheet, "jpeg", quality=80)}


def _pictured(sample: Sample) -> NDArray[np.int64]:
    """Rows that have a thumbnail: all, or the typical ones and others at random."""
    if len(sample.rows) <= THUMBNAILS:
        return np.arange(len(sample.rows))
    first = [row for rows in _typical(sample).values() for row in rows]
    others = np.setdiff1d(np.random.default_rng(0).permutation(len(sample.rows)), first, assume_unique=True)
    others = np.random.default_rng(0).permutation(others)
    return np.sort(np.concatenate([np.array(first, np.int64), others])[:THUMBNAILS])


def _typical(sample: Sample) -> dict[int, list[int]]:
    found = typical(sample, [int(cluster) for cluster in np.unique(sample.labels)], MEMBERS)
    return {cluster: near.tolist() for cluster, (near, _) in found.items()}


def _clusters(facts: Facts, sample: Sample) -> list[dict[str, Any]]:
    """A line for each cluster of the model."""
    summary, labels = facts.summary, facts.model.labels
    verdict, sizes, near = summary.get("verdict"), summary["sizes"], _nearest(sample)
    names, suggested, members, told = labels.names_at(), labels.suggested_at(), _typical(sample), _told(facts)
    return [
        {
            "id": cluster,
            "name": names.get(cluster),
            "suggested": suggested.get(cluster),
            "size": int(sizes[cluster]) if cluster < len(sizes) else 0,
            "clear": None if verdict is None else cluster in verdict["clear"],
            "confidence": _mean(sample.membership[sample.labels == cluster]),
            "typical": members.get(cluster, []),
            "nearest": near.get(cluster, []),
            "told": told.get(cluster, ""),
            "colour": _colours([pictures.colour(cluster)])[0],
        }
        for cluster in facts.model.clusters
    ]


def _nearest(sample: Sample) -> dict[int, list[int]]:
    """Of each cluster with rows, those whose mean in the embedding is nearest to its own."""
    clusters, place = np.unique(sample.labels, return_inverse=True)
    space = sample.space.reshape(len(place), -1)
    means = np.stack([space[place == i].mean(axis=0, dtype=np.float64) for i in range(len(clusters))])
    found = {}
    for i, cluster in enumerate(clusters.tolist()):
        order = np.argsort(((means - means[i]) ** 2).sum(1), kind="stable")
        found[cluster] = [int(clusters[other]) for other in order if other != i][:NEAREST]
    return found


def _told(facts: Facts) -> dict[int, str]:
    """What sets each cluster apart, in words; nothing of pixels."""
    if facts.profiles is None or len(facts.model.shape) == 3:
        return {}
    found: dict[int, tuple[list[str], list[str]]] = {}
    for line in facts.profiles.to_pylist():
        features, terms = found.setdefault(line["cluster"], ([], []))
        if line["kind"] == "term":
            terms.append(line["feature"])
        elif line["effect"]:
            features.append(contrasted(line))
    parts = {cluster: [*features[:FEATURES], ", ".join(terms[:TERMS])] for cluster, (features, terms) in found.items()}
    return {cluster: "; ".join(part for part in own if part) for cluster, own in parts.items()}


def _mean(values: NDArray[np.float32]) -> float | None:
    return None if not len(values) or np.isnan(values).any() else float(values.mean())


def _excerpts(sample: Sample) -> list[str] | None:
    texts = list(sample.described.texts.values())
    if not texts:
        return None
    most = max(20, min(EXCERPT, CHARACTERS // max(1, len(sample.ids))))
    return [_cut(" | ".join(parts), most) for parts in zip(*texts, strict=True)]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _columns(sample: Sample, pixels: bool) -> list[dict[str, Any]]:
    """What is said of each row, and what is known of it."""
    said = {name: getattr(sample, name) for name in ("membership", "agreement", "distance")}
    found = [_number(name, values) for name, values in said.items() if not np.isnan(values).all()]
    found += [_category(name, values) for name, values in sample.described.categories.items()][:COLUMNS]
    if not pixels:
        numbers, values = sample.described.numbers, sample.described.values
        some = sample.thinned(RANKED)
        effects = np.abs(contrast(some.described.values[:, numbers], some.labels).effect)
        strongest = np.argsort(-effects.max(axis=0, initial=0), kind="stable")[: max(0, COLUMNS - len(found))]
        found += [_number(sample.described.names[numbers[i]], values[:, numbers[i]]) for i in strongest]
    return found


def _number(name: str, values: NDArray[Any]) -> dict[str, Any]:
    values = values.astype(np.float64)
    known = values[np.isfinite(values)]
    low, high = (float(np.quantile(known, share)) for share in (0.01, 0.99)) if len(known) else (0.0, 0.0)
    # float32 tells values apart that vary little far from 0, once one of them is taken off
    base = float(np.quantile(known, 0.5, method="lower")) if len(known) else 0.0
    packed = _packed(values - base, np.float32)
    return {"name": name, "kind": "number", "base": base, "values": packed, "low": low, "high": high}


def _category(name: str, values: NDArray[np.object_]) -> dict[str, Any]:
    levels, place, counts = np.unique(values.astype(str), return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    names = [_cut(str(levels[i]), EXCERPT) for i in order[:LEVELS]] + (["others"] if len(order) > LEVELS else [])
    values_ = np.minimum(rank[place], LEVELS)
    return {"name": name, "kind": "category", "values": _packed(values_, np.int32), "names": names}


def _maps(looked: Sample, chosen: NDArray[np.int64]) -> list[dict[str, Any]]:
    found = []
    for name, points in project(looked.space).items():
        low, high = pictures.framed(points)
        about = {"name": name, "low": low.tolist(), "high": high.tolist()}
        about |= {axis: _packed(points[chosen, i], np.float32) for i, axis in enumerate("xy")}
        dense = len(chosen) < len(points) and np.all(high > low)
        found.append(about | {"density": _density(points, low, high) if dense else None})
    return found


def _density(points: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> dict[str, Any]:
    """How many rows lie where, as a picture: white where none, grey by the logarithm."""
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], GRID, [(low[0], high[0]), (low[1], high[1])])
    shares = np.log1p(counts) / max(1.0, math.log1p(counts.max()))
    grey = (255 - 110 * shares.T[::-1]).astype(np.uint8)
    return {"picture": _picture(Image.fromarray(grey), "png"), "low": low.tolist(), "high": high.tolist()}


def _picture(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _packed(values: NDArray[Any], kind: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()


def _colours(colours: Sequence[Sequence[float]]) -> list[list[int]]:
    return [[round(255 * part) for part in colour] for colour in colours]
