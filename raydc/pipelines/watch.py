"""Watching a model: new rows against those that it was trained on, in files, on a page, and in MLflow by time."""

import hashlib
import json
from collections.abc import Callable, Collection
from typing import Any

from raydc.core.fault_injection import failpoint
from raydc.core.settings import SettingsError
from raydc.core.storage import OWN, Store, alone
from raydc.data import DataError, DataSettings
from raydc.pipelines import assign
from raydc.pipelines.counting import Counted, counts_of
from raydc.pipelines.drift import compared, observed
from raydc.pipelines.report import drift_page, drift_words
from raydc.tracking import registry

RESULT, PAGE, ASSIGNED = "watch.json", "index.html", "assignments"


def watch(
    model_uri: str,
    data: DataSettings,
    out: str,
    *,
    workers: int = 0,
    tracking_uri: str | None = None,
    allow_code: Collection[str] = (),
    poll: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Assign the rows of `data` into `out`/assignments, and compare them with those that the model was trained on.

    What comes of it is in `out`/watch.json, as is returned, and on the page `out`/index.html; MLflow gets its numbers
    in one run a model, by the time when they were first told. Rows that cannot be used are counted and left out. Called
    again, it repeats nothing that is done. Raises as `assign` does, ValueError where the model does not say what its
    training rows were like. Where MLflow is away, what it is to be told waits in `out`, as `pending` says.
    """
    from raydc.tracking.tracker import RecordPending, Tracker  # here, so that workers need not wait for MLflow

    if workers < 0:
        raise SettingsError(f"--workers: expected 0 (this process) or more, got {workers}")
    store = Store(out).directory().only(f"{ASSIGNED}/", f"{OWN}/", RESULT, PAGE)
    model = registry.load(model_uri, tracking_uri, allow_code)
    if model.baseline is None and not model.refuses:
        raise ValueError(
            f"{model_uri}: the model does not say what its training rows were like, as an earlier raydc made it: train "
            f"it anew, with --align-to {model_uri} to keep its ids"
        )
    with alone(store):
        place = store / ASSIGNED
        dropping = data.model_copy(update={"on_bad_row": "drop"})
        summary = assign.assign(
            model_uri, dropping, place.root, workers, tracking_uri, allow_code=allow_code, poll=poll, counted=True
        )
        names = [name for name in place.list() if name.endswith(".parquet")]
        counted = [Counted.read(place.read_bytes(counts_of(name))) for name in names]
        if not summary["rows"]:
            raise DataError(f"{data.path}: no usable rows; all {summary['dropped']} cannot be used")
        found = compared(model, observed(model, assign.read(place.root), counted))
        version = registry.origin(model_uri, tracking_uri).version or model_uri
        result = found.to_json() | {
            "model": version,
            "data": dropping.path,
            "dropped": summary["dropped"],
            "notes": summary["notes"],
            "trained_on": int(model.baseline.sizes.sum()) if model.baseline else 0,
        }
        result |= {"said": drift_words.verdict(result), "next": drift_words.next_step(result)}
        store.write_text(RESULT, json.dumps(result, indent=1, ensure_ascii=False))
        failpoint("watched")
        store.write_text(PAGE, drift_page.page_of(result))
        key = hashlib.sha256(f"watch {assign.identity(model)}".encode()).hexdigest()
        tracker = Tracker(store, tracking_uri)
        tracker.start("raydc", f"watch-{key[:8]}", key, {"watched": version})
        tracker.log_look(_metrics(result), hashlib.sha256(json.dumps(result).encode()).hexdigest())
        paths, pending = {"output": store.root, "page": f"{store.root}/{PAGE}"}, ""
        try:
            paths |= tracker.finish()
        except RecordPending as problem:
            pending = str(problem)
        return result | {"paths": paths, "pending": pending}


def _metrics(result: dict[str, Any]) -> dict[str, float]:
    """The numbers that are told of each look."""
    checks = {(check["kind"], check["name"]): check for check in result["checks"]}
    found = {
        "drifted": float(result["drifted"]),
        "comparisons that differ": float(sum(check["drifted"] for check in result["checks"])),
        "rows": float(result["rows"]),
        "unusable rows": float(result["dropped"]),
        "nowhere": result["nowhere"] / max(1, result["rows"]),
    }
    inputs = [check["effect"] for check in result["checks"] if check["kind"] in ("input", "category")]
    found |= {"stability index, largest of inputs": max(inputs)} if inputs else {}
    for kind in ("clusters", "membership", "agreement", "distance"):
        if (kind, "") in checks:
            found[f"stability index, {kind}"] = checks[kind, ""]["effect"]
    found |= {f"share, cluster {each['cluster']}": each["now"] for each in result["clusters"]}
    return {name.replace(", ", "/").replace(" ", "_"): value for name, value in found.items()}
