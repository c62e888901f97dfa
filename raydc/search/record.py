"""A finished search on record: pictures, one MLflow run with a child for each trial, the winner registered."""

import json
from typing import Any

from raydc.core.settings import build
from raydc.core.storage import Store, alone
from raydc.data import DataSettings
from raydc.pipelines.report import SAMPLE, Facts, explored, of_winner, told
from raydc.pipelines.report.page import link, note
from raydc.pipelines.report.words import after_search
from raydc.search import page
from raydc.search.conclude import tune_alone
from raydc.search.driver import check
from raydc.search.pictures import draw
from raydc.search.planner import SearchWatch
from raydc.search.settings import TuneSettings
from raydc.tracking import mlflow_client
from raydc.tracking.payloads import alignment_tags, naming_tags, summary_metrics
from raydc.tracking.tracker import RecordPending, Tracker

STATUS = {"finished": "finished", "stopped": "finished", "guarded": "finished", "failed": "failed"}
"""MLflow's word for a trial that is over; it is told once of each."""


def tune_and_record(settings: TuneSettings, watch: SearchWatch | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """`tune`, then pictures and MLflow; the summary, and where everything is. Running it again repeats nothing.

    Raises what `tune` raises, and RecordPending if MLflow cannot be told: the search is finished then, and `raydc
    registry flush`, or the same command, tells it later.
    """
    if settings.register_as:
        mlflow_client.check_name(settings.register_as)
    watch = watch or SearchWatch()
    checked = check(settings, watch)
    watch.note(f"tracking store: {mlflow_client.shown(settings.tracking_uri)}")
    with alone(checked.context.store):
        summary = tune_alone(checked, watch)
        watch.found(summary)
        return summary, record(settings, summary)


def record(settings: TuneSettings, summary: dict[str, Any]) -> dict[str, str]:
    """Draw and log a finished search; where everything is, which RecordPending says too."""
    store = Store(settings.out)
    about = json.loads(store.read_text("tune.json"))
    report = store / "report"
    for left in set(report.list()) - set(redraw(store, report)):
        report.delete(left)  # a picture of an earlier, shorter search
    tracker = Tracker(store, settings.tracking_uri)
    config = {"search": settings.model_dump(mode="json", exclude={"out", "tracking_uri"})}
    tracker.start(settings.experiment, f"search-{about['id'][:8]}", about["id"], config)
    for entry in summary["trials"]:
        if entry["status"] in STATUS:
            tracker.log_trial(_child(about["id"], entry))
    winner = summary["winner"]
    tracker.log_summary(
        {
            "measures": winner["measures"],
            "n_clusters": winner["n_clusters"],
            "seconds": summary["seconds"],
            "warnings": summary["notes"],
        }
    )
    tracker.log_pictures()
    tracker.log_files()
    tracker.log_model()
    if settings.register_as:
        tags = evidence(summary) | {"raydc.search": about["id"]} | alignment_tags(summary.get("aligned"))
        tags |= naming_tags(summary.get("suggested"))
        tracker.register(settings.register_as, tags, "always" if settings.promote else "better")
    paths = {"output": store.root, "report": f"{store.root}/report/index.html"}
    try:
        return paths | tracker.finish()
    except RecordPending as pending:
        pending.paths = paths | tracker.paths()
        raise


def redraw(store: Store, to: Store, named: str | None = None, shown: int = SAMPLE) -> list[str]:
    """Draw a finished search anew from what it wrote; the files' names.

    `named` is what commands call the winner's model, and `shown` how many rows the interactive page holds at most.
    """
    summary = json.loads(store.read_text("search.json"))
    facts = _winners_run(store, summary, named or store.root, shown)
    if facts is None:
        return page.write(summary, draw(summary), to, ({}, [note("Not shown: the winner's run: its files are gone")]))
    interactive = explored(facts)
    drawn, parts = told(facts)
    return page.write(summary, draw(summary), to, (drawn, [*map(link, interactive), *parts]), interactive)


def _winners_run(store: Store, summary: dict[str, Any], named: str, shown: int) -> Facts | None:
    """Facts of the winner's run, from its model, its assignments and the rows; None where those are gone."""
    settings = json.loads(store.read_text("tune.json")).get("settings")
    if settings is None or not store.exists("model/model.json"):
        return None
    after, data = after_search(summary, named, store.root), build(DataSettings, settings["data"], at="data")
    return of_winner(store, summary, data, named=named, after=after, shown=shown)


def _child(search: str, entry: dict[str, Any]) -> dict[str, Any]:
    """A trial as `registry.log_trials` takes it."""
    metrics = {"score": entry["history"], "seconds": [(0, entry["seconds"])]}
    metrics |= {name: [(0, value)] for name, value in summary_metrics({"measures": entry["measures"]}).items()}
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
            tags["raydc.stability_score"] = str(finalist["score"])
    return tags
