"""The pictures of a report. Each function draws one figure from plain arrays, without pyplot and its global state.

Colours are those of Okabe and Ito (2008), which people with any colour vision tell apart; where there are more clusters
than colours, lighter and darker ones come with another marker, and clusters are named on the picture itself.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from raydc.clustering.metrics.external import match

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#7F7F7F"
HUES = (BLUE, ORANGE, GREEN, RED, "#56B4E9", "#CC79A7", GREY, "#B8A800")
SHADES = (0.0, -0.45, 0.5, -0.7, 0.3)
MARKERS = ("o", "s", "^", "D", "v")
FAR = 0.002
"""Share of the rows, at each side, that a map need not show."""
NUMBERED = 40
"""Clusters whose numbers a picture has room for."""


def blank(width: float, height: float) -> Figure:
    """A figure of so many inches."""
    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def png(figure: Figure) -> bytes:
    """The figure as a file, of the same bytes whenever it is drawn."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def colour(cluster: int) -> tuple[float, float, float]:
    """A cluster's colour; of the eight hues, then darker and lighter ones."""
    shade = SHADES[cluster // len(HUES) % len(SHADES)]
    red, green, blue = to_rgb(HUES[cluster % len(HUES)])
    if shade < 0:
        return red * (1 + shade), green * (1 + shade), blue * (1 + shade)
    return red + (1 - red) * shade, green + (1 - green) * shade, blue + (1 - blue) * shade


def marker(cluster: int) -> str:
    """A cluster's marker, another one for each shade."""
    return MARKERS[cluster // len(HUES) % len(MARKERS)]


def scatter(points: NDArray[Any], labels: NDArray[np.int64], title: str, axes_names: tuple[str, str]) -> Figure:
    """Rows [n, 2] in their cluster's colour; the cluster's number stands where its rows are densest (their median).

    Of more than NUMBERED clusters the largest alone are numbered.
    """
    figure = blank(7.2, 6.0)
    axes = figure.subplots()
    clusters, counts = np.unique(labels, return_counts=True)
    if len(clusters) > NUMBERED:
        clusters = clusters[np.argsort(-counts, kind="stable")[:NUMBERED]]
        title += f"; the {NUMBERED} largest are numbered"
    size = float(np.clip(40_000 / max(1, len(points)), 3, 90))  # few rows fill the picture as many do
    alpha = float(np.clip(1.15 - 0.15 * np.log10(max(1, len(points))), 0.4, 0.85))
    colours = np.array([colour(k) for k in range(int(labels.max(initial=0)) + 1)])
    markers = np.array([marker(k) for k in range(len(colours))])[labels]
    shuffled = np.random.default_rng(0).permutation(len(points))  # no cluster hides another by being drawn last
    for part in np.array_split(shuffled, 8):
        for shape in np.unique(markers[part]):
            rows = part[markers[part] == shape]
            x, y = points[rows].T
            axes.scatter(x, y, s=size, color=colours[labels[rows]], marker=shape, alpha=alpha, linewidths=0)
    font = 12 if len(clusters) <= 12 else 9
    for cluster in clusters:
        x, y = np.median(points[labels == cluster], axis=0)
        text = axes.text(x, y, str(cluster), ha="center", va="center", fontsize=font, fontweight="bold", color="black")
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])
    low, high = framed(points)
    margin = np.where(high > low, 0.06 * (high - low), 1.0)
    (left, bottom), (right, top) = low - margin, high + margin
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_title(title)
    axes.set_xlabel(axes_names[0])
    axes.set_ylabel(axes_names[1])
    axes.set_xticks([])
    axes.set_yticks([])
    return figure


def framed(points: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least and largest [2] of what a map of rows [n, 2] shows: each of few; of many not those few that lie far away,
    which would squeeze all others into a corner.
    """
    low = np.quantile(points, FAR, axis=0, method="lower")
    return low, np.quantile(points, 1 - FAR, axis=0, method="higher")


def sizes(counts: Sequence[int]) -> Figure:
    """Rows in each cluster, with the mean as a line."""
    n = len(counts)
    figure = blank(max(5.0, min(14.0, 1.5 + 0.42 * n)), 3.6)
    axes = figure.subplots()
    axes.bar(range(n), counts, color=[colour(k) for k in range(n)], width=0.8)
    mean = sum(counts) / n
    axes.axhline(mean, color="0.25", linewidth=1, linestyle="--", zorder=0.5)
    longest = max(len(f"{count:,}") for count in counts)
    upright = n > 8 and longest > 3
    if n <= 60:
        for k, count in enumerate(counts):
            text = f"{count:,}" if count else "none"
            axes.annotate(
                text, (k, count), (0, 3), textcoords="offset points", ha="center", va="bottom",
                fontsize=8, rotation=90 if upright else 0, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            )  # fmt: skip
    axes.set_ylim(0, max(counts) * (1.28 if upright and n <= 60 else 1.12))
    step = max(1, math.ceil(n / 40))
    axes.set_xticks(range(0, n, step))
    axes.set_xlim(-0.7, n - 0.3)
    axes.set_xlabel("cluster")
    axes.set_ylabel("rows")
    axes.set_title(f"Cluster sizes (dashed: {mean:,.0f}, the mean)")
    return figure


def curves(progress: Sequence[Mapping[str, Any]], n_clusters: int) -> Figure:
    """Losses by name over the epochs, and below them what the clusters did; phases side by side, named at the top."""
    spans, names = _spans(progress)
    clustered = any(line.get("changed") is not None or line.get("alive") is not None for line in progress)
    figure = blank(9.0, 5.6 if clustered else 3.6)
    panels = figure.subplots(2 if clustered else 1, 1, sharex=True, squeeze=False)[:, 0]
    losses = sorted({name for line in progress for name in line["losses"]})
    for i, name in enumerate(losses):
        for first, last in spans:
            lines = [(at + 1, progress[at]["losses"].get(name)) for at in range(first, last)]
            _line(panels[0], lines, HUES[i % len(HUES)], name, len(progress) < 40)
    values = [v for line in progress for v in line["losses"].values() if v is not None and math.isfinite(v)]
    if values and min(values) > 0 and max(values) / min(values) > 30:
        panels[0].set_yscale("log")
    panels[0].set_ylabel("loss, mean over the epoch")
    if clustered:
        most = max(n_clusters, *(line.get("alive") or 0 for line in progress))  # jule and dcc begin with many more
        shares = {
            "changed cluster": [line.get("changed") for line in progress],
            "in the largest cluster": [line.get("largest") for line in progress],
            f"clusters with rows, of {most}": [
                None if line.get("alive") is None else line["alive"] / most for line in progress
            ],
        }
        for hue, (name, series) in zip(HUES, shares.items(), strict=False):
            for first, last in spans:
                _line(panels[1], [(at + 1, series[at]) for at in range(first, last)], hue, name, len(progress) < 40)
        panels[1].set_ylim(-0.03, 1.06)
        panels[1].set_ylabel("share")
    panels[-1].set_xlabel("epoch of the run")
    total = len(progress)
    for i, axes in enumerate(panels):
        for j, (first, last) in enumerate(spans):
            if j % 2:
                axes.axvspan(first + 0.5, last + 0.5, color="0.94", zorder=0, linewidth=0)
        if i == 0:
            _name_phases(axes, spans, names, total)
        axes.set_xlim(0.5, total + 0.5)
        _legend(axes)
    return figure


def members(rows: Mapping[int, tuple[NDArray[Any], NDArray[Any]]], shape: Sequence[int]) -> Figure:
    """Images of the most (left) and least (right) typical members of each cluster: rows[k] holds two [m, C, H, W]."""
    across = max(max(len(most), len(least)) for most, least in rows.values())
    columns = [[*range(across)], [*range(across + 1, 2 * across + 1)]]
    cells = {
        (i, columns[side][j]): image
        for i, cluster in enumerate(sorted(rows))
        for side, images in enumerate(rows[cluster])
        for j, image in enumerate(images)
    }
    figure, axes = _mosaic(cells, shape, len(rows), 2 * across + 1, sorted(rows))
    for side, name in enumerate(("most typical", "least typical")):
        x = columns[side][0] / (2 * across + 1)
        axes.annotate(name, (x, 1), (0, 3), xycoords="axes fraction", textcoords="offset points", va="bottom")
    return figure


def generated(samples: NDArray[Any], shape: Sequence[int]) -> Figure:
    """Rows that the method drew for each cluster [K, m, C, H, W], a cluster a row."""
    n, across = samples.shape[:2]
    cells = {(k, j): samples[k, j] for k in range(n) for j in range(across)}
    return _mosaic(cells, shape, n, across, range(n))[0]


def contrasts(rows: NDArray[Any], labels: NDArray[np.int64], names: Sequence[str], most: int = 24) -> Figure:
    """How far cluster means lie from the mean of all rows [n, D], in standard deviations, for the telling features."""
    clusters, sizes = np.unique(labels, return_counts=True)
    found, clusters = len(clusters), np.sort(clusters[np.argsort(-sizes, kind="stable")[:NUMBERED]])
    spread = rows.std(axis=0)
    usable = np.flatnonzero(spread > 0)
    means = np.stack([rows[labels == k].mean(axis=0) for k in clusters])
    scores = (means[:, usable] - rows[:, usable].mean(axis=0)) / spread[usable]
    telling = np.argsort(-np.abs(scores).max(axis=0), kind="stable")[:most]
    telling = telling[np.argsort(np.abs(scores[:, telling]).argmax(axis=0), kind="stable")]
    shown = scores[:, telling]
    labels_of = [_short(names[usable[at]]) for at in telling]
    figure = blank(max(4.5, 2.2 + 0.36 * len(telling)), max(4.0, 1.9 + 0.26 * len(clusters)))
    axes = figure.subplots()
    bound = max(1.0, float(np.abs(shown).max(initial=0)))
    image = axes.imshow(shown, cmap="PuOr_r", vmin=-bound, vmax=bound, aspect="auto")
    axes.set_xticks(range(len(telling)), labels_of, rotation=60, ha="right", fontsize=8, rotation_mode="anchor")
    axes.set_yticks(range(len(clusters)), [str(k) for k in clusters], fontsize=8 if len(clusters) > 20 else 9)
    some = f" (the {len(clusters)} largest of {found:,})" if found > len(clusters) else ""
    axes.set_ylabel(f"cluster{some}")
    axes.set_title("Features that set clusters apart")
    figure.colorbar(image, ax=axes, label="standard deviations", fraction=0.05, pad=0.02)
    return figure


def confusion(table: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """Rows of each cluster (down) and known class (across); each cluster beside the class it stands for."""
    counts = np.asarray(table)
    stands_for = match(counts)
    order = np.lexsort((np.arange(len(counts)), np.where(stands_for < 0, counts.shape[1], stands_for)))
    counts = counts[order]
    n, c = counts.shape
    figure = blank(max(4.2, min(14, 2.2 + 0.48 * c)), max(3.4, min(13, 1.6 + 0.36 * n)))
    axes = figure.subplots()
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    if n <= 20 and c <= 20:
        for i, j in zip(*np.nonzero(counts), strict=True):
            ink = "white" if shares[i, j] > 0.55 else "black"
            axes.text(j, i, f"{counts[i, j]:,}", ha="center", va="center", fontsize=8, color=ink)
    names = [_short(name) for name in classes]
    long = max(map(len, names)) > 3
    axes.set_xticks(range(c), names, rotation=45 if long else 0, ha="right" if long else "center", fontsize=8)
    places = range(0, n, math.ceil(n / NUMBERED))
    axes.set_yticks(places, [str(order[at]) for at in places], fontsize=8)
    axes.set_xlabel("known class")
    axes.set_ylabel("cluster")
    axes.set_title("Clusters against known classes (rows)")
    figure.colorbar(image, ax=axes, label="share of the cluster", fraction=0.05, pad=0.02)
    return figure


def memberships(membership: NDArray[Any], labels: NDArray[np.int64], n_clusters: int) -> Figure:
    """Largest membership of each cluster's rows: median, middle half, nine tenths; dashed: 1/K, which is no idea."""
    clusters = [k for k in range(n_clusters) if (labels == k).any()]
    figure = blank(max(5.0, min(14.0, 1.5 + 0.42 * n_clusters)), 3.4)
    axes = figure.subplots()
    for k in clusters:
        low, quarter, middle, upper, high = np.quantile(membership[labels == k], [0.05, 0.25, 0.5, 0.75, 0.95])
        axes.plot([k, k], [low, high], color=colour(k), linewidth=1.5)
        axes.plot([k, k], [quarter, upper], color=colour(k), linewidth=6, solid_capstyle="butt")
        axes.plot([k], [middle], marker="o", color="white", markeredgecolor="black", markersize=5)
    step = max(1, math.ceil(n_clusters / 40))
    axes.set_xticks(range(0, n_clusters, step))
    axes.set_xlim(-0.7, n_clusters - 0.3)
    axes.axhline(1 / n_clusters, color="0.25", linewidth=1, linestyle="--", zorder=0.5)
    axes.set_ylim(0, min(1.03, 1.15 * max(float(membership.max()), 2 / n_clusters)))
    axes.set_xlabel("cluster")
    axes.set_ylabel("largest membership")
    axes.set_title(f"Largest membership by cluster (dashed: {1 / n_clusters:.2g}, chance)")
    return figure


def _spans(progress: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[int, int]], list[str]]:
    """Where each phase begins and ends among the lines, and its name."""
    starts = [i for i, line in enumerate(progress) if i == 0 or line["phase"] != progress[i - 1]["phase"]]
    spans = list(zip(starts, [*starts[1:], len(progress)], strict=True))
    return spans, [progress[first]["phase"] for first, _ in spans]


def _name_phases(axes: Axes, spans: Sequence[tuple[int, int]], names: Sequence[str], total: int) -> None:
    """Names above the panel; "layer 1", "layer 2", ... together, and upright where the phase is short."""
    groups: list[tuple[str, int, int]] = []
    for name, (first, last) in zip(names, spans, strict=True):
        word = name.split(" ")[0]
        if groups and groups[-1][0].split(" ")[0].rstrip("s") == word.rstrip("s"):
            groups[-1] = (f"{word}s", groups[-1][1], last)
        else:
            groups.append((name, first, last))
    for name, first, last in groups:
        narrow = (last - first) / total < 0.016 * len(name)
        axes.text(
            (first + last) / 2 + 0.5, 1.02, name, transform=axes.get_xaxis_transform(), fontsize=9,
            ha="left" if narrow else "center", va="bottom", rotation=35 if narrow else 0,
        )  # fmt: skip


def _line(axes: Axes, points: Sequence[tuple[int, float | None]], hue: str, name: str, dots: bool) -> None:
    known = [(x, y) for x, y in points if y is not None]
    if known:
        x, y = zip(*known, strict=True)
        axes.plot(x, y, color=hue, label=name, linewidth=1.6, marker="." if dots or len(known) == 1 else "")


def _legend(axes: Axes) -> None:
    """One entry a name, beside the panel, so that it hides no line."""
    handles, names = axes.get_legend_handles_labels()
    if handles:
        once = dict(zip(names, handles, strict=True))
        axes.legend(
            once.values(), once.keys(), fontsize=8, loc="center left", bbox_to_anchor=(1.005, 0.5), frameon=False
        )


def _mosaic(
    cells: Mapping[tuple[int, int], NDArray[Any]], shape: Sequence[int], down: int, across: int, names: Sequence[int]
) -> tuple[Figure, Axes]:
    """Images by (row, column) on one white sheet, each in its own range of grey or colour, the names to the left."""
    height, width = shape[1:]
    times = max(1, round(56 / max(height, width)))
    tall, wide = height * times + 4, width * times + 4
    sheet = np.ones((down * tall, across * wide, 3))
    for (i, j), image in cells.items():
        pixels = np.asarray(image, np.float64).reshape(tuple(shape))
        low, high = pixels.min(), pixels.max()
        pixels = (pixels - low) / (high - low) if high > low else np.zeros_like(pixels)
        colours = pixels if len(pixels) == 3 else np.repeat(pixels[:1], 3, axis=0)
        enlarged = colours.repeat(times, axis=1).repeat(times, axis=2).transpose(1, 2, 0)
        sheet[i * tall : (i + 1) * tall - 4, j * wide : (j + 1) * wide - 4] = enlarged
    scale = 0.62 / max(tall, wide)
    figure = blank(scale * wide * across + 0.7, scale * tall * down + 0.5)
    axes = figure.subplots()
    axes.imshow(sheet, interpolation="antialiased")
    axes.set_xticks([])
    axes.set_yticks([(i + 0.5) * tall - 2 for i in range(down)], [str(name) for name in names], fontweight="bold")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure, axes


def _short(name: object, most: int = 22) -> str:
    """A name that fits under a tick; "$" would start a formula."""
    text = str(name).replace("$", r"\$")
    return text if len(text) <= most else text[: most - 1] + "…"
