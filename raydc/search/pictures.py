"""Pictures of a search, drawn from what search.json holds."""

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from raydc.pipelines.report.pictures import BLUE, GREEN, GREY, ORANGE, RED, blank, png
from raydc.search.scales import children, leaves

COLOURS = {"finished": BLUE, "stopped": GREY, "guarded": RED}
MOST = 12
"""Settings that are drawn at most, the most important first."""
VALID, DOUBTFUL = 0.75, 0.6


def draw(summary: Mapping[str, Any]) -> dict[str, bytes]:
    """Every picture that the search has values for, as PNG by name."""
    figures = {
        "settings": settings(summary),
        "importance": importance(summary),
        "stability": stability(summary),
        "rungs": rungs(summary),
        "clusters": clusters(summary),
        "k-curve": k_curve(summary),
        "merge-tree": merge_tree(summary),
    }
    return {name: png(figure) for name, figure in figures.items() if figure is not None}


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def settings(summary: Mapping[str, Any]) -> Figure | None:
    """Score against each suggested setting: finished, stopped early (grey), guarded (at the bottom, red)."""
    trials = [t for t in summary["trials"] if not t["baseline"] and t["status"] in COLOURS]
    names = dict.fromkeys(name for t in trials for name in t["point"] if name != "method.name")
    rated = summary["importance"]
    spread = {name: {str(t["point"][name]) for t in trials if name in t["point"]} for name in names}
    shown = sorted((name for name in names if len(spread[name]) > 1), key=lambda name: -rated.get(name, 0.0))[:MOST]
    if not shown:
        return None
    usable = [t["score"] for t in trials if t["status"] != "guarded"]
    floor = min(usable, default=0.0) - 0.05
    columns = min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    figure = blank(3.7 * columns, 2.7 * lines)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for at, axes in enumerate(grid.flat):
        if at >= len(shown):
            axes.set_visible(False)
            continue
        name = shown[at]
        has = [t for t in trials if name in t["point"]]
        values = [t["point"][name] for t in has]
        numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        ticks = sorted(set(map(str, values)), key=_by_number) if not numeric else []
        for t, value in zip(has, values, strict=True):
            x = value if numeric else ticks.index(str(value))
            y = t["score"] if t["status"] != "guarded" else floor
            axes.scatter([x], [y], color=COLOURS[t["status"]], s=26, alpha=0.8, linewidths=0)
        if numeric and min(values) > 0 and max(values) >= 10 * min(values):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if max(values) < 100 * min(values) else (1,)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        if ticks:
            axes.set_xticks(range(len(ticks)), ticks, fontsize=8)
            axes.margins(x=0.2)
        axes.set_xlabel(name.removeprefix("method."), fontsize=9)
        _plain(axes)
    for row in grid:
        row[0].set_ylabel("score")
    _key(figure, {s: c for s, c in COLOURS.items() if any(t["status"] == s for t in trials)})
    return figure


def _by_number(text: str) -> tuple[float, str]:
    """Order of choices: "50 epochs" before "150 epochs"."""
    first = text.split()[0] if text.split() else ""
    return (float(first) if first.replace(".", "", 1).isdigit() else 0.0, text)


def _key(figure: Figure, colours: Mapping[str, str]) -> None:
    """What the colours mean, above the picture."""
    from matplotlib.lines import Line2D

    dots = [Line2D([], [], marker="o", linestyle="", color=colour) for colour in colours.values()]
    figure.legend(dots, [*colours], loc="outside upper center", ncols=len(colours), frameon=False, fontsize=9)


def importance(summary: Mapping[str, Any]) -> Figure | None:
    """Share of the score's variance that each setting explains."""
    rated = dict(sorted(summary["importance"].items(), key=lambda item: item[1])[-MOST:])
    if not rated:
        return None
    figure = blank(6.0, 0.6 + 0.34 * len(rated))
    axes = figure.subplots()
    axes.barh([name.removeprefix("method.") for name in rated], [*rated.values()], color=BLUE, height=0.7)
    axes.set_xlabel("importance: share of the score's variance")
    _plain(axes)
    return figure


def stability(summary: Mapping[str, Any]) -> Figure | None:
    """The finalists: modularity against stability, with lines of equal stability score."""
    finalists = summary["finalists"]
    if not finalists:
        return None
    figure = blank(7.4, max(4.6, 1.2 + 0.16 * len(finalists)))
    axes = figure.subplots()
    methods = {t["number"]: t["method"] for t in summary["trials"]}
    x, y = [f["stability"] for f in finalists], [f["modularity"] for f in finalists]
    left, bottom, top = max(min(x) - 0.12, 0.0), min(y) - 0.07, max(y) + 0.07
    for level in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        points = [i / 100 for i in range(2, 101)]
        axes.plot(points, [level / math.sqrt(p) for p in points], color="0.88", linewidth=1, zorder=0)
        if bottom < level < top:
            axes.annotate(f" {level:g}", (1.0, level), color="0.5", fontsize=8, va="center", annotation_clip=False)
    winner = summary["winner"]["number"]
    # names stand in a column beside the panel, in the order of their points, so that none hides another
    for at, f in enumerate(sorted(finalists, key=lambda f: (f["modularity"], f["stability"]))):
        won = f["number"] == winner
        axes.scatter([f["stability"]], [f["modularity"]], color=RED if won else BLUE, s=70 if won else 34, zorder=3)
        axes.annotate(
            f"{f['number']} {methods[f['number']]}",
            (f["stability"], f["modularity"]),
            xytext=(1.1, (at + 0.5) / len(finalists)),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            fontweight="bold" if won else "normal",
            arrowprops={"arrowstyle": "-", "relpos": (0, 0.5), "color": "0.7", "linewidth": 0.6},
        )
    axes.set_xlim(left, 1.0)
    axes.set_ylim(bottom, top)
    axes.set_xlabel("stability: mean AMI between replicas")
    axes.set_ylabel("modularity on the neighbour graph")
    axes.set_title("Finalists (the winner in red; grey: equal stability score)", fontsize=10)
    _plain(axes)
    return figure


def rungs(summary: Mapping[str, Any]) -> Figure:
    """Score while trials were trained; grey ones were stopped early."""
    figure = blank(6.4, 4.0)
    axes = figure.subplots()
    winner, names = summary["winner"]["number"], list[tuple[float, str, str]]()
    for t in summary["trials"]:
        line = [(step / 10, score) for step, score in t["history"] if score > -1]
        if not line:
            continue
        won, stopped = t["number"] == winner, t["status"] == "stopped"
        colour = RED if won else GREY if stopped else ORANGE if t["baseline"] else BLUE
        style: dict[str, Any] = (
            {"linewidth": 2, "markersize": 11, "zorder": 3} if won else {"linewidth": 1, "alpha": 0.7}
        )
        axes.plot(*zip(*line, strict=True), color=colour, marker=".", **style)
        if t["baseline"] or won:
            names.append((line[-1][1], t["method"], colour))
    low, high = axes.get_ylim()
    place = high
    for score, name, colour in sorted(names, reverse=True):  # one below the other where scores are close
        place = min(score, place - (high - low) / 24)
        axes.text(1.03, place, name, fontsize=8, color=colour, va="center")
    axes.set_xlim(0, 1.16)
    axes.set_xlabel("share of the training")
    axes.set_ylabel("score")
    axes.set_title("red: the winner; orange: baselines; blue: suggested; grey: stopped early", fontsize=10)
    _plain(axes)
    return figure


def clusters(summary: Mapping[str, Any]) -> Figure | None:
    """How stable each of the winner's clusters is, beside Hennig's marks for valid and doubtful."""
    found = summary["clusters"]
    if not found:
        return None
    figure = blank(max(4.5, min(14.0, 1.6 + 0.42 * len(found))), 3.4)
    axes = figure.subplots()
    heights = [c["jaccard"] for c in found]
    axes.bar([c["cluster"] for c in found], heights, color=[_firm(h) for h in heights], width=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=30, integer=True))
    for mark, name in ((VALID, " valid above"), (DOUBTFUL, " doubtful below")):
        axes.axhline(mark, color="0.3", linewidth=0.8, linestyle="--")
        axes.annotate(name, (1.0, mark), xycoords=("axes fraction", "data"), fontsize=8, va="center", ha="left")
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("cluster")
    axes.set_ylabel("Jaccard over replicas")
    _plain(axes)
    return figure


def k_curve(summary: Mapping[str, Any]) -> Figure | None:
    """Score by number of clusters, where that was searched."""
    curve = summary["k curve"]["raw k-means"]
    if len(curve) < 2:
        return None
    figure = blank(6.0, 3.8)
    axes = figure.subplots()
    numbers, bands = [int(k) for k in curve], summary["k curve"]["band"]
    axes.plot(numbers, [*curve.values()], color=GREY, marker=".", label="raw k-means")
    lowest, highest = zip(*(bands[k] for k in curve), strict=True)
    axes.fill_between(numbers, lowest, highest, color=GREY, alpha=0.2, linewidth=0, label="its subsamples")
    best = {int(k): score for k, score in summary["k curve"]["trials"].items()}
    axes.scatter([*best], [*best.values()], color=BLUE, s=34, zorder=3, label="best trial of that K")
    chosen = summary["winner"]["n_clusters"]
    axes.axvline(chosen, color=RED, linewidth=1, linestyle="--", label=f"chosen: {chosen}")
    for k in summary["k curve"]["listed"][1:]:
        axes.axvline(k, color=ORANGE, linewidth=1, linestyle="--", label=f"also: {k}")
    for kind, (_, top) in summary["null"].items():
        axes.axhline(top, color="0.75", linewidth=0.8, linestyle=":")
        axes.annotate(
            f"null ({kind})", (1.0, top), xycoords=("axes fraction", "data"), fontsize=7, ha="right", va="bottom"
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("number of clusters K")
    axes.set_ylabel("score")
    axes.legend(frameon=False, fontsize=8)
    _plain(axes)
    return figure


def merge_tree(summary: Mapping[str, Any]) -> Figure | None:
    """What merges into what: each join at the strength of its tie, branches coloured by how firm their node is."""
    joins, jaccard, ids = (summary["scales"]["tree"][name] for name in ("joins", "jaccard", "ids"))
    order, k = leaves(joins), len(joins) + 1
    if k < 3:
        return None
    figure = blank(max(5.0, min(16.0, 1.8 + 0.4 * k)), 4.4)
    axes = figure.subplots()
    top = 1.6 * max(joins[0][2], 1.0)
    floor = min((tie for *_, tie in joins if tie > 0), default=1.0) / 2
    x: dict[int, float] = {cluster: float(at) for at, cluster in enumerate(order)}
    height = dict.fromkeys(order, top)
    for at, (pair, (*_, tie)) in enumerate(zip(children(joins), joins, strict=True)):
        node, y = k + at, max(tie, floor)
        for child in pair:
            firm = GREY if jaccard is None else _firm(jaccard[child])
            axes.plot([x[child]] * 2, [height[child], y], color=firm, linewidth=2, solid_capstyle="butt")
        axes.plot([x[child] for child in pair], [y, y], color="0.3", linewidth=1)
        x[node], height[node] = sum(x[child] for child in pair) / 2, y
        axes.annotate(str(k - at - 1), (x[node], y), xytext=(3, -9), textcoords="offset points", fontsize=7)
    axes.axhline(1.0, color="0.6", linewidth=0.8, linestyle=":")
    axes.annotate(" chance", (1.0, 1.0), xycoords=("axes fraction", "data"), fontsize=8, va="center", color="0.4")
    axes.set_yscale("log")
    axes.set_xticks(range(k), [str(ids[cluster]) for cluster in order], fontsize=8)
    axes.tick_params(axis="x", length=0)
    axes.xaxis.tick_top()
    axes.set_ylabel("tie: pairs that belong together, against chance")
    axes.set_title("above: the winner's clusters; below a node: how many are left", fontsize=10)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    if jaccard is not None:
        _key(figure, {f"{VALID} and more": GREEN, f"{DOUBTFUL} to {VALID}": ORANGE, f"under {DOUBTFUL}": RED})
    return figure


def _firm(jaccard: float) -> str:
    """The colour of a cluster's stability."""
    return GREEN if jaccard >= VALID else ORANGE if jaccard >= DOUBTFUL else RED
