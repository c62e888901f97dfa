"""A finished search on record: pictures, one MLflow run with a child for each trial, the winner registered."""

import json
import math
from pathlib import Path
from typing import Any

from raydc import registry
from raydc.records import sha256_of
from raydc.search.driver import SearchWatch
from raydc.search.finish import tune
from raydc.search.pictures import draw
from raydc.search.settings import TuneSettings
from raydc.storage import Store

STATUS = {"finished": "finished", "stopped": "finished", "guarded": "finished", "failed": "failed"}


def tune_and_record(settings: TuneSettings, watch: SearchWatch | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """`tune`, then pictures and MLflow; the summary, and where everything is. Running it again repeats nothing.

    Raises what `tune` raises, and RegistryError if MLflow cannot be reached: the search is finished then, and the same
    command records it.
    """
    if settings.register_as:
        registry.check_name(settings.register_as)
    summary = tune(settings, watch)
    return summary, record(settings, summary)


def record(settings: TuneSettings, summary: dict[str, Any]) -> dict[str, str]:
    """Draw and log a finished search; where everything is."""
    store = Store(settings.out)
    about = json.loads(store.read_text("tune.json"))
    pictures, model = Path(store.path) / "report", Path(store.path) / "model"
    draw(summary, pictures)
    tracker = registry.Tracker(store, settings.tracking_uri)
    config = {"search": settings.model_dump(mode="json", exclude={"out", "tracking_uri"})}
    run_id = tracker.start(settings.experiment, f"search-{about['id'][:8]}", about["id"], config)
    paths = {"output": store.root, "report": str(pictures), "mlflow run": run_id}
    status = "failed"
    try:
        registry.log_trials(run_id, [_child(about["id"], entry) for entry in summary["trials"]], settings.tracking_uri)
        winner = summary["winner"]
        tracker.log_summary(
            {
                "measures": winner["measures"],
                "n_clusters": winner["n_clusters"],
                "seconds": summary["seconds"],
                "warnings": summary["notes"],
            }
        )
        tracker.log_pictures(pictures)
        paths["model"] = tracker.log_model(model)
        if settings.register_as:
            paths["registered as"] = _register(settings, summary, about, paths["model"], run_id, sha256_of(model))
        status = "finished"
    finally:
        tracker.finish(status)
    return paths


def _child(search: str, entry: dict[str, Any]) -> dict[str, Any]:
    """A trial as `registry.log_trials` takes it."""
    metrics = {"score": entry["history"], "seconds": [(0, entry["seconds"])]}
    metrics |= {name.replace(" ", "."): [(0, value)] for name, value in entry["measures"].items()}
    return {
        "key": f"{search}-{entry['number']}",
        "name": f"{entry['number']} {entry['method']}",
        "status": STATUS[entry["status"]],
        "settings": entry["settings"] or entry["point"],
        "tags": {"raydc.status": entry["status"], "raydc.problems": "; ".join(entry["problems"])},
        "metrics": metrics,
    }


def evidence(summary: dict[str, Any]) -> dict[str, str]:
    """What a registered winner's tags say: how good, how stable, by which rule, on which rows."""
    winner = summary["winner"]
    tags = {
        "raydc.method": winner["method"],
        "raydc.trial": f"{winner['number']}, replica {winner['replica']}",
        "raydc.score": str(winner["score"]),
        "raydc.reference": summary["reference"].rpartition(" ")[2],
        "raydc.criterion": summary["criterion"],
        "raydc.structure": str(summary["structure"]).lower(),
        "raydc.notes": "\n".join(summary["notes"]),
    }
    for finalist in summary["finalists"]:
        if finalist["number"] == winner["number"]:
            tags |= {f"raydc.{name}": str(finalist[name]) for name in ("stability", "modularity", "spread")}
            tags["raydc.stage_three"] = str(finalist["score"])
    return tags


def beats(ours: dict[str, str], theirs: dict[str, str]) -> bool:
    """Whether a winner's evidence beats a champion's by more than the replicas' spread, on the same rows."""
    names = ("raydc.stage_three", "raydc.spread", "raydc.reference")
    if any(name not in tags for tags in (ours, theirs) for name in names):
        return False
    gain = float(ours["raydc.stage_three"]) - float(theirs["raydc.stage_three"])
    spread = math.hypot(float(ours["raydc.spread"]), float(theirs["raydc.spread"]))
    return ours["raydc.reference"] == theirs["raydc.reference"] and gain > spread


def _register(
    settings: TuneSettings, summary: dict[str, Any], about: dict[str, Any], uri: str, run_id: str, sha256: str
) -> str:
    """A version of the registered model, champion if it beats the present one or is told to be."""
    name = str(settings.register_as)
    tags = evidence(summary) | {"raydc.search": about["id"]}
    before = registry.champion(name, settings.tracking_uri)
    version = registry.register(uri, name, sha256, run_id, tags, settings.tracking_uri)
    if before is not None and before[0] != version and (settings.promote or beats(tags, before[1])):
        registry.promote(name, version, settings.tracking_uri)
    return f"models:/{name}/{version}"
