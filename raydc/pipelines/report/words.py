"""What numbers mean, in plain words: a gloss for each measure, the verdict on clusters, and what to do next."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from raydc import methods
from raydc.clustering.metrics.clarity import named
from raydc.core.nouns import counted

GLOSSES = {
    "score": "how far neighbours share clusters beyond chance: 0 as random labels, 1 at most; ranks runs",
    "modularity": "share of neighbours in one cluster, less that of random labels of the same sizes",
    "agreement": "share of neighbours in one cluster; 1 also where one cluster holds everything",
    "balance": "how equal the sizes are: 1 all equal, 0 one cluster has all; no mark of quality",
    "largest share": "share of the rows in the largest cluster",
    "mean membership": "mean of the rows' largest memberships; rises with training, right or wrong",
    "acc": "accuracy: share of rows in the cluster that their class is matched with, one to one",
    "ami": "what clusters and classes tell of each other beyond chance: 0 chance, 1 all",
    "nmi": "how much clusters and classes tell of each other: 0 nothing, 1 all; rises with many clusters",
    "ari": "pairs of rows that clusters and classes both join or both part, beyond chance: 0 chance, 1 all",
    "purity": "share of rows of their cluster's commonest class; rises with many clusters",
    "knn": "share of rows of the commonest class of their 10 nearest in the embedding: of features, not of clusters",
    "spread": "how far the stability score moves with the modularity of single trainings, one standard deviation",
    "selector": "modularity times the root of stability over replicas: the score that chooses unless another is named",
    "neighbour_score": "how far neighbours share clusters beyond chance: 0 as random labels, at most 1",
    "kappa": "share of neighbours in one cluster, beyond chance, of what is possible; prefers few clusters",
    "stability ami": "how alike the labels of replicas are (AMI): 0 chance, 1 the same; coarse answers are stable too",
    "stability ari": "how alike the labels of replicas are (ARI): 0 chance, 1 the same",
    "prediction strength": "share of pairs that stay together in replicas, of the worst cluster; .8 counts as good",
    "consensus": "how alike the labels are to those of the other finalists, stable ones counting more",
    "raw silhouette": "distance to the next cluster against that within, on the rows: 1 apart, 0 touching",
    "pooled silhouette": "silhouette over the embeddings of all finalists",
    "ace": "silhouette over those embeddings that agree with each other",
}
"""One line for each measure that tables show, by its name in lower case."""
ALIKE, RELATED = 0.9, 0.6
"""Mean adjusted Rand index of the clusters of two seeds from which they count as the same, and as related."""
STABLE = 0.75
"""Stability of a level of the tree from which it is no chance (Hennig, as of clusters)."""
UNLIKE = 0.2
"""Share of far rows, 1 % of those trained on, from which new rows count as unlike them."""
NO_STRUCTURE = "no structure: rows without clusters score as well, so that these clusters may be of noise, clear or not"
"""Of a search's winner that noise reaches as well."""


def gloss(name: str) -> str:
    """What a measure means; nothing for one that is not known."""
    return GLOSSES.get(name.lower(), "")


def rounded(value: float) -> str:
    """A measure as people read it, to hundredths."""
    return f"{value:.2f}"


def percent(share: float) -> str:
    """A share in whole percents; what is there but less than one says so."""
    return "under 1 %" if 0 < share < 0.005 else f"{share:.0%}".replace("%", " %")


def told(verdict: Mapping[str, Any]) -> str:
    """The verdict in one sentence: how many clusters are clear, which are doubtful, how many rows belong nowhere."""
    clear, doubtful = verdict["clear"], verdict["doubtful"]
    which = f" ({named(doubtful)})" if doubtful else ""
    return (
        f"{counted(len(clear) + len(doubtful), 'cluster')}: {len(clear)} clear, {len(doubtful)} doubtful{which}; "
        f"{percent(verdict['nowhere'])} of the rows belong nowhere"
    )


def rule(verdict: Mapping[str, Any]) -> str:
    """The rule by which the verdict is given."""
    if verdict["asked"] == "replicas":
        return (
            f"clear: a cluster that comes again in replicas with a mean overlap of {rounded(verdict['bar'])} or more "
            "(Jaccard); a row belongs nowhere if fewer than half of the replicas put it into its cluster"
        )
    return (
        f"clear: neighbours share the cluster, beyond chance, for {rounded(verdict['bar'])} or more (clusters of "
        f"noise: {rounded(verdict['noise'])}); a row belongs nowhere if fewer than half of its neighbours share its "
        f"cluster; told from {counted(verdict['rows'], 'row')}"
    )


def significant(value: float, digits: int = 4) -> str:
    """A number in so many significant digits, thousands parted from 10,000 on; an exponent where it is very small."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    size = math.floor(math.log10(abs(value)))
    if not -5 < size < 15:
        return f"{value:.{digits}g}"
    places = digits - 1 - size
    text = f"{round(value, places):{',' if size > 3 else ''}.{max(0, places)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def contrasted(line: Mapping[str, Any]) -> str:
    """A feature of a cluster (a line of profiles.parquet) against that of all other rows: shares, or means in as many
    digits as tell the two apart.
    """
    mean, rest = line["mean"], line["rest"]
    if line["kind"] == "share":
        return f"{line['feature']}: {percent(mean)} (others {percent(rest)})"
    apart, size = abs(mean - rest), max(abs(mean), abs(rest))
    digits = 4 if not apart or not math.isfinite(apart) else min(15, max(4, 2 + math.ceil(math.log10(size / apart))))
    return f"{line['direction']} {line['feature']}: {significant(mean, digits)} (others {significant(rest, digits)})"


def of_levels(levels: Mapping[str, float]) -> str:
    """At which levels the tree of clusters is stable; nothing where it was not measured."""
    if not levels:
        return ""
    stable = [int(level) for level, value in levels.items() if value >= STABLE]
    if not stable:
        return (
            f"The tree of clusters is stable at no level from 2 to {len(levels) + 1}: do not rely on coarser clusters."
        )
    return f"The tree of clusters is stable at {'level' if len(stable) == 1 else 'levels'} {spans(stable)}."


def spans(numbers: Sequence[int]) -> str:
    """Ascending numbers, with those that follow each other as one: "2-4, 7"."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in found)


def shaky(verdict: Mapping[str, Any]) -> bool:
    """Whether fewer than half of the clusters are clear."""
    return len(verdict["clear"]) < len(verdict["doubtful"])


def after_training(
    verdict: Mapping[str, Any] | None, *, data: str, method: str, n_clusters: int, model: str, refuses: bool
) -> str:
    """What to do after a run whose model lies at `model`."""
    search = f"raydc tune --data {data} --n-clusters {n_clusters} --out DIR"
    if verdict is not None and shaky(verdict):
        return f"do not rely on these clusters yet: look at the report, and search for better settings: {search}"
    if refuses:
        return f"{method} assigns no new rows: its labels are the assignments above; whether they come again: {search}"
    return f"raydc assign --model {model} --data NEW_ROWS --out DIR; whether the clusters come again: {search}"


def of_seeds(agreement: float) -> str:
    """How far the clusters of several seeds agree, in one sentence."""
    index = f"adjusted Rand index {rounded(agreement)} of two seeds on average; 1: the same clusters, 0: chance"
    if agreement >= ALIKE:
        return f"the seeds find the same clusters ({index})"
    if agreement >= RELATED:
        return f"the seeds agree in the main ({index}): see in each report which clusters are stable"
    return f"the seeds disagree ({index}): a single run's clusters are one of several answers; raydc tune looks for one"


def after_search(summary: Mapping[str, Any], model: str, out: str) -> str:
    """What to do after a search in `out` whose winner lies at `model`."""
    verdict = summary["verdict"]
    if not summary["structure"]:
        return "there may be nothing to find: check columns and scaling (raydc train --dry-run), or take more features"
    if verdict is None:
        return f"no replica tells how stable these clusters are: search on with more time or trials in {out}"
    if summary["scales"]["at edge"]:
        low, high = summary["scales"]["range"]
        return f"search a wider range of numbers of clusters than {low}..{high}, into another --out"
    if shaky(verdict):
        return (
            f"look at {out}/report/index.html before you rely on these clusters: the merge tree shows which fewer ones "
            "hold better"
        )
    if methods.load(summary["winner"]["method"]).info.refuses:
        return f"the winner assigns no new rows: its labels are in {out}/assignments"
    return f"raydc assign --model {model} --data NEW_ROWS --out DIR"


def of_assignment(summary: Mapping[str, Any]) -> str:
    """What an assignment came to, in one sentence."""
    clusters: Sequence[int] = summary["clusters"]
    empty = [cluster for cluster in clusters if not summary["sizes"][cluster]]
    none = f" (no row went to {named(empty)})" if empty else ""
    left = f"; {counted(summary['dropped'], 'bad row')} left out" if summary["dropped"] else ""
    return (
        f"{counted(summary['rows'], 'row')} in {counted(len(clusters) - len(empty), 'cluster')}{none}; "
        f"{percent(_far(summary))} belong nowhere: farther out than 99 % of the rows trained on, of which 1 % are"
        f"{_labelled(summary)}{left}{_unseen(summary)}"
    )


def _unseen(summary: Mapping[str, Any]) -> str:
    """How many rows have a category that the model has no place for, by column; nothing where none has."""
    found = [f"{counted(rows, 'row')} in {name}" for name, rows in summary["unseen"].items()]
    return f"; categories without a place in the model: {', '.join(found)}" if found else ""


def after_assignment(summary: Mapping[str, Any]) -> str:
    """What to do after an assignment."""
    where = f"the files in {summary['out']} have row, id, cluster and how far each can be trusted"
    if _far(summary) > UNLIKE:
        return f"these rows are unlike those trained on: check their columns and units, or train anew; {where}"
    return f"{where}; leave out rows with a distance above .99 where wrong clusters do harm"


def of_alignment(aligned: Mapping[str, Any]) -> str:
    """What became of the clusters of an earlier model."""
    kept, lost = aligned["kept"], aligned["died"]
    least = f" (overlap {rounded(min(kept.values()))} or more)" if kept else ""
    parts = [f"{len(kept)} of {counted(len(kept) + len(lost), 'cluster')} of {aligned['to']} keep their ids{least}"]
    parts += [f"new: {named(aligned['new'])}"] if aligned["new"] else []
    parts += [f"gone: {named(lost)}"] if lost else []
    parts += [f"{cluster} fell into {named(others)}" for cluster, others in aligned["split"].items()]
    parts += [f"{named(others)} came together in {cluster}" for cluster, others in aligned["merged"].items()]
    least = percent(aligned["threshold"])
    return (
        f"{'; '.join(parts)} (the same: {least} of the rows of either, or more, are of both; "
        f"{counted(aligned['rows'], 'row')})"
    )


def _labelled(summary: Mapping[str, Any]) -> str:
    """How many rows have the label -1, and why; nothing where none has and none was asked for."""
    share = summary["asked"]["outliers"]
    if not summary["nowhere"] and share is None:
        return ""
    why = ["is of a dropped cluster"] if summary["dropped_clusters"] else []
    why += [] if share is None else [f"lies farther out than all but {100 * share:g} % of those trained on"]
    return f"; {counted(summary['nowhere'], 'row')} labelled -1: what {' or that '.join(why)}"


def _far(summary: Mapping[str, Any]) -> float:
    """Share of the rows that lie farther out than nearly all of those trained on."""
    return float(summary["far"] / max(1, summary["rows"]))
