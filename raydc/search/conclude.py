"""After the trainings: the choice, the winner's model with its evidence, and search.json, which reports draw."""

import json
import math
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import optuna
import pyarrow as pa
from optuna.trial import TrialState

from raydc import methods
from raydc.clustering.metrics import clarity, hierarchy, stability
from raydc.clustering.shallow import communities
from raydc.core.errors import WorkersLost
from raydc.core.storage import OWN, alone
from raydc.data import opened
from raydc.pipelines import assign, follow
from raydc.pipelines.report import words
from raydc.search import criteria, remarks, scales, selector
from raydc.search.candidate import Candidate, Standing, standing
from raydc.search.criteria import Comparison
from raydc.search.directory import same_search
from raydc.search.driver import Search, assigners, check, search, trial_cluster
from raydc.search.errors import SearchError
from raydc.search.evaluation import Context, Labels, plain_kmeans
from raydc.search.planner import Finished, SearchWatch, interrupted, simpler
from raydc.search.selector import Choice, Null
from raydc.search.settings import TuneSettings
from raydc.search.trial import Record, read_array
from raydc.training import alignment, profiles
from raydc.training.alignment import Followed
from raydc.training.labels import LabelMap
from raydc.training.model import ClusteringModel, Replica
from raydc.training.summary import write_baseline
from raydc.training.worker_job import trusted, write_assignments

SHOWN = (
    "selector",
    "neighbour_score",
    "modularity",
    "kappa",
    "agreement",
    "stability ami",
    "stability ari",
    "prediction strength",
    "consensus",
    "raw silhouette",
    "pooled silhouette",
    "ace",
)
"""Criteria that the finalists are shown side by side by, beside the one that chooses."""
NULL = f"{OWN}/null.json"
"""What noise scores, and what was asked."""
WITNESSES = 4
"""Replicas that travel with the winner's model at most; each is as large as the model and costs as much to ask."""


def tune(settings: TuneSettings, watch: SearchWatch | None = None) -> dict[str, Any]:
    """Search, choose, and write the winner to `out`/model; what search.json holds. Running it again repeats nothing.

    Raises SettingsError or DataError before any work, SearchError where there is no answer, or SearchInterrupted.
    """
    watch = watch or SearchWatch()
    checked = check(settings, watch)
    with alone(checked.context.store):
        return tune_alone(checked, watch)


def tune_alone(checked: Search, watch: SearchWatch) -> dict[str, Any]:
    """`tune` in a directory that the caller holds `alone`."""
    started, context, store = time.monotonic(), checked.context, checked.context.store
    align_to, earlier = context.settings.align_to, None
    if align_to is not None and not store.exists(alignment.VERSION):
        earlier = follow.find(align_to, context.shape, context.columns, context.settings.tracking_uri, ())
    same_search(context, checked.space)
    follow.keep(earlier, store)
    with trial_cluster(context.settings):
        summary = conclude(search(checked, watch), watch.stop)
    before = json.loads(store.read_text("search.json")) if store.exists("search.json") else {"seconds": 0.0}
    spent = before["seconds"] + time.monotonic() - started
    found = json.loads(json.dumps(summary | {"seconds": before["seconds"]}))
    if found != before:
        found["seconds"] = spent
        store.write_text("search.json", json.dumps(found, indent=1))
    for line in found["notes"]:
        watch.note(line)
    return found


def labelled(context: Context, record: Record, replicas: list[Record]) -> list[tuple[Record, Labels]]:
    """Those trainings of a trial that finished, with their labels [n]; none where its first did not."""
    found = []
    for one in (record, *replicas):
        own = read_array(context.store, f"{one.folder}/labels.npy")
        if one.status == "finished" and own is not None:
            found.append((one, own.astype(np.int64)))
    return found if found and found[0][0] is record else []


def candidate(context: Context, record: Record, replicas: list[Record]) -> Candidate | None:
    """A trial with its replicas; None where it has no labels itself."""
    found = labelled(context, record, replicas)
    if not found:
        return None
    labels, unseen = [own for _, own in found], float(np.mean([one.unseen for one, _ in found]))
    features = read_array(context.store, f"{record.folder}/features.npy")
    seconds = float(np.mean([one.seconds for one in (record, *replicas)]))
    k, guarded = max(int(own.max()) + 1 for own in labels), sum(one.status == "guarded" for one in replicas)
    return Candidate(record.number, k, seconds, np.stack(labels), features, unseen, guarded)


def conclude(finished: Finished, stop: threading.Event | None = None) -> dict[str, Any]:
    """Choose, write model and agreement, and sum everything up. SearchInterrupted if asked to stop on the way."""
    context = finished.context
    by_number = {record.number: record for record in finished.records}
    found = [candidate(context, by_number[number], own) for number, own in finished.replicas.items()]
    able = [one for one in found if one is not None and one.trainings > 1]
    choice, standings = _choose(finished, able)
    trainings = labelled(context, by_number[choice.number], finished.replicas.get(choice.number, []))
    (winner, own), others = trainings[choice.medoid], [one for i, one in enumerate(trainings) if i != choice.medoid]
    followed = _followed(context, winner, own, [labels for _, labels in others])
    clusters, verdict = _judged(winner, own, [labels for _, labels in others], followed.labels.given)
    weights = _write_model(context, winner, own, others, clusters, followed.labels, stop)
    if not methods.load(winner.method).info.refuses:
        write_baseline(context.store, context.profile.inputs)
    called = profiles.suggest(opened(context.settings.data, context.profile.fingerprint), context.store)
    band = _null(context, winner.n_clusters, len(finished.records))
    score = winner.score
    notes = [*choice.notes, *remarks.of_opponent(winner, _model(context, winner).method)]
    if band.inside(score):
        notes.append(
            f"no structure: the winner's score {score:.4f} is within what k-means or Leiden reach on permuted columns "
            f"(up to {band.columns[1]:.4f}) or rows of one normal distribution (up to {band.gaussian[1]:.4f})"
        )
    suggested = [r for r in finished.records if r.number >= len(finished.first) and r.status in ("finished", "stopped")]
    if len(suggested) > 1 and np.ptp([record.score for record in suggested]) == 0:
        notes.append(
            f"every suggested trial scores {suggested[0].score:.4f}: the score does not tell these settings apart"
        )
    notes += remarks.left_out(finished)
    notes += [words.of_alignment(followed.told)] if followed.told else []
    joined = [(join.first, join.second, join.strength) for join in followed.labels.joins]
    rated, names = _criteria(context, able), np.array(followed.labels.given)
    listed = _listed(finished, able, rated.get(context.settings.criterion, {}), winner, names[own])
    if scales.at_edge(winner.n_clusters, context.settings.n_clusters):
        low, high = context.settings.n_clusters
        notes.append(f"the best K, {winner.n_clusters}, is at the edge of the range {low}..{high}: widen it")
    everything = [*finished.records, *(r for own in finished.replicas.values() for r in own)]
    return {
        "winner": _entry(winner, len(finished.first)) | {"weights": weights},
        "best": choice.best,
        "criterion": context.settings.criterion,
        "structure": not band.inside(score),
        "null": {"columns": band.columns, "gaussian": band.gaussian},
        "notes": notes,
        "reference": context.reference_name,
        "view": context.space.why,
        "baselines": [str(point["method.name"]) for point in finished.first],
        "trials": [
            _entry(record, len(finished.first)) | {"finalist": record.number in finished.replicas}
            for record in finished.records
        ],
        "finalists": [vars(standings[one.number]) | {"seconds": one.seconds} for one in able],
        "criteria": rated,
        "replicas": [_entry(record, len(finished.first)) for own in finished.replicas.values() for record in own],
        "importance": importance(finished),
        "k curve": _k_curve(finished, listed),
        "scales": {
            "range": context.settings.n_clusters,
            "at edge": scales.at_edge(winner.n_clusters, context.settings.n_clusters),
            "listed": listed,
            "tree": scales.tree(own, [labels for _, labels in others], context.graph, joined) | {"ids": names.tolist()},
        },
        "clusters": clusters,
        "suggested": {str(cluster): name for cluster, name in called.items()},
        "verdict": verdict,
        "aligned": followed.told,
        "cost": {
            "trainings": len(everything),
            "seconds of trials": sum(record.seconds for record in finished.records),
            "seconds of replicas": sum(r.seconds for own in finished.replicas.values() for r in own),
        },
    }


def _null(context: Context, n_clusters: int, trials: int) -> Null:
    """What noise scores; once for the same question, as it takes forty fits."""
    asked = {"rows": context.reference_digest, "K": n_clusters, "trials": trials, "seed": context.settings.seed}
    asked |= {"neighbours": context.settings.neighbours, "view": context.space.chosen.view.name}
    if context.store.exists(NULL):
        before = json.loads(context.store.read_text(NULL))
        if before["asked"] == asked:
            return Null(tuple(before["columns"]), tuple(before["gaussian"]))
    families = noise_families(n_clusters, context.settings.neighbours)
    found = selector.null(context.space, families, trials=trials, seed=context.settings.seed)
    context.store.write_text(NULL, json.dumps({"asked": asked, **asdict(found)}))
    return found


def noise_families(n_clusters: int, neighbours: int) -> list[Callable[[Any, int], Labels]]:
    """Who clusters noise to tell what a winner of any family may reach there: (rows [n, F], seed) -> labels [n].

    K-means, and Leiden, which maximises the very modularity that scores are made of: no method that follows the
    rows' neighbours reaches more where there is nothing.
    """
    return [
        lambda rows, seed: plain_kmeans(rows, n_clusters, seed),
        lambda rows, seed: communities(rows, n_clusters, neighbours, seed),
    ]


def _choose(finished: Finished, able: list[Candidate]) -> tuple[Choice, dict[int, Standing]]:
    context = finished.context
    if able:
        order, criterion = simpler(finished.first), context.settings.criterion
        choice, standings, _ = selector.choose(able, context.graph, order, criterion, context.reference)
        opponents = order[: order.index(choice.best)] if choice.best in order else order
        choice.notes += remarks.not_compared(finished, [number for number in opponents if number not in standings])
        if collapsed := [f"trial {one.number} ({one.guarded} of {one.trainings})" for one in able if one.guarded]:
            choice.notes.append(f"replicas that guards refused count as stability 0: {', '.join(collapsed)}")
        return choice, standings
    models = [record for record in finished.records if record.has_model(context.store)]
    best = max(models, key=lambda record: (record.score, -record.number))
    note = (
        "no finalist has a replica (out of time, or they failed): chosen by one training alone, its stability unknown"
    )
    return Choice(best.number, best.number, 0, [note]), {}


def _followed(context: Context, winner: Record, own: Labels, others: list[Labels]) -> Followed:
    """What the winner's clusters are called, with their tree: as in an earlier model, where one is to be followed."""
    n_clusters, allow_code = _model(context, winner).method.n_clusters, [winner.method]
    evidence = [hierarchy.of_neighbours(own, context.graph, n_clusters)]
    evidence += [hierarchy.of_replica(own, labels, n_clusters) for labels in others]
    labels, earlier = (
        LabelMap.plain(n_clusters).with_tree(hierarchy.tree(evidence)),
        alignment.kept(context.store, allow_code),
    )
    return (
        Followed(labels, None)
        if earlier is None
        else alignment.follow(labels, own, earlier[0], context.rows, earlier[1])
    )


def _judged(
    winner: Record, own: Labels, others: list[Labels], ids: Sequence[int]
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Size, Jaccard stability and mean agreement of each of the winner's clusters, on the evaluation rows; and what the
    replicas say of them all. Nothing where there is no replica.
    """
    if not others:
        return [], None
    k = max(winner.n_clusters, *(int(labels.max()) + 1 for labels in others))
    overlap = stability.cluster_jaccard(own, np.stack(others), k)
    agree = stability.row_agreement(np.stack([own, *others]), k, 0)
    found = []
    for cluster in range(len(ids)):
        rows = own == cluster
        mean = float(agree[rows].mean()) if rows.any() else 0.0
        found.append(
            {"cluster": ids[cluster], "rows": int(rows.sum()), "jaccard": float(overlap[cluster]), "agreement": mean}
        )
    alive = np.bincount(own, minlength=k) > 0
    verdict = clarity.judge(np.where(alive, overlap, np.nan), agree)
    named = {kind: sorted(ids[cluster] for cluster in getattr(verdict, kind)) for kind in ("clear", "doubtful")}
    return found, asdict(verdict) | named | {"asked": "replicas", "rows": len(own)}


def _write_model(
    context: Context,
    winner: Record,
    own: Labels,
    others: list[tuple[Record, Labels]],
    clusters: list[dict[str, Any]],
    labels: LabelMap,
    stop: threading.Event | None = None,
) -> str:
    """`out`/model with its replicas as witnesses, and `out`/assignments: every row's cluster and their agreement."""
    store, model = context.store, _model(context, winner)
    model.notes["search"] = {"trial": winner.number, "replica": winner.replica, "score": winner.score}
    model.notes["clusters"] = clusters
    model.renamed = labels
    if not model.refuses:
        model.replicas = tuple(
            Replica(_model(context, other).method, stability.names_in(theirs, own, model.method.n_clusters))
            for other, theirs in others[:WITNESSES]
        )
    store.delete("model")
    for name, data in model.files().items():
        store.write_bytes(f"model/{name}", data)
    if model.refuses:
        _write_evaluated(context, labels.given, own, [theirs for _, theirs in others])
        return model.weights_hash()
    manifest = f"assignments/{assign.MANIFEST}"
    if not store.exists(manifest) or json.loads(store.read_text(manifest))["model"] != assign.identity(model):
        store.delete("assignments")  # of the winner of fewer trials

    def poll() -> None:
        if stop is not None and stop.is_set():
            raise interrupted(store)

    where = (f"{store.path}/model", context.settings.data, f"{store.path}/assignments")
    try:
        assign.assign(*where, workers=assigners(context.settings), poll=poll, allow_code=[model.method_name])
    except WorkersLost as problem:
        raise SearchError(f"the winner's rows could not all be assigned: {problem}") from problem
    return model.weights_hash()


def _model(context: Context, record: Record) -> ClusteringModel:
    place = context.store / f"{record.folder}/run/model"
    return ClusteringModel.stored(place, allow_code=[record.method])


def _write_evaluated(context: Context, ids: Sequence[int], own: Labels, others: list[Labels]) -> None:
    """Assignments of the evaluation rows, where a model cannot be asked for those of other rows."""
    k = max(len(ids), *(int(labels.max()) + 1 for labels in (own, *others)))
    agree = stability.row_agreement(np.stack([own, *others]), k, 0) if others else np.full(len(own), np.nan)
    columns = {
        "row": context.numbers,
        "id": pa.array(context.ids),
        "cluster": np.array(ids)[own],
        **trusted(None, agree, None),
    }
    context.store.delete("assignments")
    write_assignments(context.store, "assignments/part-000000000000.parquet", columns)


def _entry(record: Record, baselines: int) -> dict[str, Any]:
    """A training as a line of a table."""
    return {
        "number": record.number,
        "replica": record.replica,
        "baseline": record.number < baselines,
        "method": record.method,
        "point": record.point,
        "settings": record.settings,
        "status": record.status,
        "problems": record.problems,
        "score": record.score,
        "measures": record.measures,
        "history": record.history,
        "n_clusters": record.n_clusters,
        "loss": record.loss if record.loss is None or math.isfinite(record.loss) else None,
        "seconds": record.seconds,
        "unseen": record.unseen,
        "weights": record.weights,
    }


def _criteria(context: Context, able: list[Candidate]) -> dict[str, dict[str, float | None]]:
    """Each criterion by finalist's number; none where it has no value."""
    if not able:
        return {}
    shown = dict.fromkeys([*SHOWN, context.settings.criterion])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = criteria.values_of(Comparison(able, context.graph, context.reference), shown)
    return {
        name: {str(one.number): float(v) if np.isfinite(v) else None for one, v in zip(able, values, strict=True)}
        for name, values in found.items()
    }


def importance(finished: Finished) -> dict[str, float]:
    """Share of the score's variance that each setting explains (PED-ANOVA or fANOVA, as Optuna has it).

    Of settings that all suggested trials have, else of those of the method most often suggested; of finished trials
    alone, as a guarded one's score and a stopped one's are of another kind. Empty under 8 trials.
    """
    told = finished.study.get_trials(states=(TrialState.COMPLETE,))
    trials = [t for t in told if t.params and t.user_attrs.get("status") == "finished"]
    methods = [str(t.user_attrs.get("method")) for t in trials]
    if len(set(methods)) > 1:
        most = max(sorted(set(methods)), key=methods.count)
        trials = [t for t, name in zip(trials, methods, strict=True) if name == most]
    if len(trials) < 8 or np.ptp([t.value for t in trials]) == 0:
        return {}
    apart = optuna.create_study(direction="maximize")
    apart.add_trials(trials)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(apart)
    return {name.rpartition(": ")[2]: float(value) for name, value in found.items()}


def _listed(
    finished: Finished, able: list[Candidate], values: dict[str, float | None], winner: Record, own: Labels
) -> list[dict[str, Any]]:
    """The short list of numbers of clusters, the winner's first; nothing where the number was given.

    Of each number its best finalist by what chooses, and what becomes of the winner's clusters there.
    """
    low, high = finished.context.settings.n_clusters
    if low == high:
        return []
    rated = {one.number: v for one in able if (v := values.get(str(one.number))) is not None}
    of_k: dict[int, Candidate] = {}
    for one in sorted((one for one in able if one.number in rated), key=lambda one: -rated[one.number]):
        of_k.setdefault(one.n_clusters, one)
    of_k |= {one.n_clusters: one for one in able if one.number == winner.number}
    graph, methods = finished.context.graph, {record.number: record.method for record in finished.records}
    wanted = scales.short_list({k: rated.get(one.number, -1.0) for k, one in of_k.items()}, winner.n_clusters)
    found = []
    for chosen in (of_k[k] for k in wanted if k in of_k):
        stands = standing(chosen, graph)
        there = own if chosen.number == winner.number else chosen.labels[stability.medoid(chosen.labels)]
        found.append(
            {"k": chosen.n_clusters, "number": chosen.number, "method": methods[chosen.number]}
            | {"value": rated.get(chosen.number), "stability": stands.stability, "score": stands.score}
            | {"spread": stands.spread, "clear": _clear(chosen), **scales.relation(own, there)}
        )
    return found


def _clear(candidate: Candidate) -> int:
    """How many of a finalist's clusters come again in its replicas."""
    first, others = candidate.labels[0], candidate.labels[1:]
    if not len(others):
        return 0
    return int((stability.cluster_jaccard(first, others, int(first.max()) + 1) >= clarity.CLEAR).sum())


def _k_curve(finished: Finished, listed: list[dict[str, Any]]) -> dict[str, Any]:
    """Best neighbour score by number of clusters: of raw k-means, with the band of its subsamples, and of trials."""
    context, best = finished.context, dict[int, float]()
    for record in finished.records:
        if record.status == "finished":
            best[record.n_clusters] = max(record.score, best.get(record.n_clusters, record.score))
    free = len(finished.curve) > 1
    bands = scales.band(context.reference, context.graph, sorted(finished.curve), context.settings.seed) if free else {}
    return {
        "raw k-means": {str(k): finished.curve[k] for k in sorted(finished.curve)},
        "band": {str(k): list(bands[k]) for k in bands},
        "trials": {str(k): best[k] for k in sorted(best)},
        "listed": [one["k"] for one in listed],
    }
