"""Where a search is kept: its directory, which one search and one driver own at a time, and Optuna's study."""

import hashlib
import json
import uuid
import warnings
from pathlib import Path
from typing import Any

import optuna

from raydc.core.redact import redact
from raydc.core.settings import SettingsError, differences
from raydc.core.storage import VECTORS, Store
from raydc.data import DataError, changes
from raydc.search.errors import SearchError
from raydc.search.evaluation import Context
from raydc.search.pruner import HalvingWithinMethod
from raydc.search.space import Space, digest, written
from raydc.search.trial import STOP

STUDY = "raydc"
DRAWN = 10
"""Trials that the sampler draws at random, before it learns from their scores."""
FREE = (
    "out", "trials", "concurrent", "gpus_per_trial", "time_budget", "study", "register_as", "promote", "tracking_uri",
    "experiment",
)  # fmt: skip
"""Settings that may change when a search goes on."""


def open_study(context: Context) -> optuna.Study:
    """The study, made or found. SearchError if its storage cannot be reached."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings = context.settings
    place = settings.study or f"sqlite:///{context.store.path}/study.db"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if "://" in place:
                # sqlite waits 5 s for a database that another process has locked; a backup takes longer
                patient = {"connect_args": {"timeout": 60.0}} if place.startswith("sqlite") else {}
                storage: Any = optuna.storages.RDBStorage(place, engine_kwargs=patient)
            else:
                backend = optuna.storages.journal.JournalFileBackend(str(Path(place).absolute()))
                storage = optuna.storages.JournalStorage(backend)
        study = optuna.create_study(
            study_name=f"{STUDY}-{identity(context)}", storage=storage, direction="maximize", load_if_exists=True
        )
        finished = len(study.get_trials(deepcopy=False))
    except Exception as problem:  # a driver's own kind of error for each database, all meaning the same here
        first = str(problem).strip().split("\n")[0]
        raise SearchError(
            f"study: cannot open Optuna's storage {redact(place)}: {redact(first)}. Check the URL and that its "
            "server runs, or leave --study out to keep the study in --out"
        ) from problem
    # begun anew, a sampler would suggest the same first points again
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=DRAWN, seed=settings.seed + finished)
    study.pruner = HalvingWithinMethod()
    return study


def identity(context: Context) -> str:
    """The search's own name, drawn when its directory was taken: a storage may hold others of the same settings."""
    return str(json.loads(context.store.read_text("tune.json"))["id"])


def key(context: Context, space: Space) -> str:
    """Identifies what is searched: settings, space, rows and the space in which neighbours count."""
    settings = context.settings
    values = {k: v for k, v in settings.model_dump(mode="json").items() if k not in FREE}
    values["data"] |= {"path": context.profile.identity, "storage": None}
    values["reference"] = settings.reference and context.reference_digest
    values["space"] = [written(settings.space), digest(space, settings.n_clusters)]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def unused(store: Store) -> None:
    """SettingsError where a directory holds files, and no search."""
    if not store.exists("tune.json"):
        store.only(f"{VECTORS}/", STOP)


def same_search(context: Context, space: Space) -> None:
    """Refuse a directory that holds something else; else say in it what is searched."""
    store, settings, own = context.store, context.settings, key(context, space)
    if store.exists("tune.json"):
        before = json.loads(store.read_text("tune.json"))
        if before["key"] == own:
            return
        now = settings.model_dump(mode="json")
        other = [k for k in now if k not in FREE and before["settings"].get(k) != now[k]]
        if not other and (rows := changes(before["files"], context.profile.contents)):
            raise DataError(
                f"{settings.out} holds a search over other rows:\n{rows}\nPut them back, or name another --out."
            )
        what = differences(before["settings"], now, other)
        if not what and before["reference"] != context.reference_name:
            what = f"reference was {before['reference']} and is {context.reference_name}"
        raise SettingsError(
            f"out: {settings.out} holds another search: {what or 'its space has changed'}; name another --out"
        )
    unused(store)
    about = {
        "id": uuid.uuid4().hex,
        "key": own,
        "settings": settings.model_dump(mode="json", exclude=set(FREE)),
        "files": context.profile.contents,
        "reference": context.reference_name,
    }
    store.write_text("tune.json", json.dumps(about, indent=1))
