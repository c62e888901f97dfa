"""Registered models: versions and the champion among them, and models found by name.

What registers or promotes may be called again with the same effect, as all that writes in `mlflow_client.py`.
"""

import difflib
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlflow
import yaml
from mlflow import MlflowClient

from raydc.core.redact import redact
from raydc.core.storage import Store
from raydc.tracking.mlflow_client import RECORD, RegistryError, RegistryRefused, asking, check_name, cut, find, reading
from raydc.tracking.payloads import beats, not_comparable, sha256_of
from raydc.training.model import ClusteringModel
from raydc.training.model_files import ABOUT, FILE, ModelError

log = logging.getLogger("raydc")

REFERENCE = re.compile(
    r"models:/(m-[0-9a-f]{32}|[A-Za-z0-9._-]{1,128}(@[A-Za-z0-9._-]{1,128}|/(\d+|latest)))|runs:/[0-9a-f]{32}/[\w.-]+"
)
RUN_ID = re.compile(r"[0-9a-f]{32}")
SETTINGS_OF = ("config.yaml", "tune.json")
"""Files of a run or a search that say which rows it was of."""
CHAMPION, CHALLENGER = "champion", "challenger"
NOT_COMPARED = "raydc.not_compared"
"""Tag of a version whose evidence cannot be set against the champion's: why."""
Promotion = Literal["first", "better", "always"]
NAMES_SHOWN = 10
"""Of names that a message lists."""


def register(
    model_uri: str,
    name: str,
    sha256: str,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    tracking_uri: str | None = None,
    promotion: Promotion = "first",
) -> int:
    """A version of the registered model `name`: the present one of the same `sha256`, else one of `log_model`'s URI.

    It becomes champion if it is the `first` version, or also if it is the `better` one by its tags, or `always`; else
    challenger. Why its tags cannot be set against the champion's, where they cannot, stands in a tag of the version.
    """
    check_name(name)
    uri = find(tracking_uri)
    with asking(uri) as client:
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        marks = {key: cut(redact(str(value))) for key, value in (tags or {}).items()} | {"raydc.sha256": sha256}
        for version in client.search_model_versions(f"name = '{name}'"):
            if version.tags.get("raydc.sha256") == sha256:
                number = int(version.version)
                break
        else:
            model_id = model_uri.removeprefix("models:/")
            # a server resolves the URI itself; in this process MLflow would ask the store of the process for it
            location = model_uri if uri.startswith("http") else client.get_logged_model(model_id).artifact_location
            made = client.create_model_version(name, location, run_id=run_id, tags=marks, model_id=model_id)
            number = int(made.version)
        aliases = client.get_registered_model(name).aliases
        if CHAMPION not in aliases:
            client.set_registered_model_alias(name, CHAMPION, str(number))
        elif str(aliases[CHAMPION]) != str(number):
            theirs = client.get_model_version(name, str(aliases[CHAMPION])).tags
            if promotion == "always" or (promotion == "better" and beats(marks, theirs)):
                promote(name, number, uri)
            else:
                client.set_registered_model_alias(name, CHALLENGER, str(number))
                if reason := not_comparable(marks, theirs):
                    said = f"not compared with version {aliases[CHAMPION]}, the champion: {reason}"
                    client.set_model_version_tag(name, str(number), NOT_COMPARED, said)
    return number


def promote(name: str, version: int, tracking_uri: str | None = None) -> None:
    """Make a version the champion; it is no challenger any more. RegistryRefused lists those there are."""
    check_name(name)
    with asking(find(tracking_uri)) as client:
        _version(client, name, str(version), is_alias=False)
        client.set_registered_model_alias(name, CHAMPION, str(version))
        if str(client.get_registered_model(name).aliases.get(CHALLENGER)) == str(version):
            client.delete_registered_model_alias(name, CHALLENGER)


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    number: int
    alias: str
    """champion, challenger, or empty."""
    tags: Mapping[str, str]


def versions(name: str | None = None, tracking_uri: str | None = None) -> list[Version]:
    """Versions of the registered model of this name, or of all, by name and number; RegistryRefused if it has none."""
    with reading(find(tracking_uri)) as client:
        if name is not None:
            _version(client, check_name(name), "latest", is_alias=False)
        query = {} if name is None else {"filter_string": f"name = '{name}'"}
        found = []
        for model in client.search_registered_models(max_results=1000, **query):
            aliases = {str(number): alias for alias, number in client.get_registered_model(model.name).aliases.items()}
            for one in client.search_model_versions(f"name = '{model.name}'"):
                found.append(Version(model.name, int(one.version), aliases.get(str(one.version), ""), dict(one.tags)))
    return sorted(found, key=lambda version: (version.name, version.number))


def standing_of(name: str, version: int, tracking_uri: str | None = None) -> str:
    """champion, or challenger and why it was not compared; empty if the version is neither (any more)."""
    check_name(name)
    with asking(find(tracking_uri)) as client:
        aliases = client.get_registered_model(name).aliases
        tags = client.get_model_version(name, str(version)).tags
    if str(aliases.get(CHAMPION)) == str(version):
        return CHAMPION
    if str(aliases.get(CHALLENGER)) != str(version):
        return ""
    return f"{CHALLENGER}; {tags[NOT_COMPARED]}" if NOT_COMPARED in tags else CHALLENGER


def champion(name: str, tracking_uri: str | None = None) -> tuple[int, dict[str, str]] | None:
    """Version and tags of the present champion; None if there is none."""
    check_name(name)
    with asking(find(tracking_uri)) as client:
        if not client.search_registered_models(f"name = '{name}'"):
            return None
        version = client.get_registered_model(name).aliases.get(CHAMPION)
        return None if version is None else (int(version), dict(client.get_model_version(name, str(version)).tags))


def load(uri: str, tracking_uri: str | None = None, allow_code: Collection[str] = ()) -> ClusteringModel:
    """The model of models:/NAME@ALIAS, models:/NAME/3, models:/NAME/latest, models:/m-..., runs:/.../model, or a URI.

    A folder may be the model's or a run's output directory. Raises RegistryError or ModelError; checksums are
    compared, and no code that came with the model is run, nor that of another method than raydc's own unless
    `allow_code` names it.
    """
    if not uri.startswith(("models:", "runs:")):
        store = Store(uri)
        store = store if store.exists(ABOUT) else store / "model"
        if not store.exists(ABOUT):
            raise ModelError(
                f"no model at {uri}: expected models:/NAME@champion, a run's output directory, or its model/"
            )
        return ClusteringModel.of({name: store.read_bytes(name) for name in store.list()}, store.root, allow_code)
    with tempfile.TemporaryDirectory(prefix="raydc-") as folder:
        return ClusteringModel.load(_download(uri, folder, find(tracking_uri)), allow_code)


def pinned(uri: str, tracking_uri: str | None = None) -> str:
    """The model that a URI means now, by a name that does not change: models:/digits/3 of models:/digits@champion.

    What always means one model stays as it is. RegistryError if there is none.
    """
    if not follows(uri):
        return uri
    if not REFERENCE.fullmatch(uri):
        raise RegistryError(f"expected models:/NAME@ALIAS or models:/NAME/latest, got {uri!r}")
    name, chosen = re.split("[@/]", uri.removeprefix("models:/"))
    with reading(find(tracking_uri)) as client:
        return f"models:/{name}/{_version(client, name, chosen, '@' in uri)}"


def follows(uri: str) -> bool:
    """Whether a URI may mean another model later: an alias, or the latest version."""
    return uri.startswith("models:/") and ("@" in uri or uri.endswith("/latest"))


@dataclass(frozen=True)
class Origin:
    """Where a model comes from."""

    version: str
    """The model by a name that does not change, such as models:/digits/3; empty of a folder."""
    data: Mapping[str, Any] | None
    """Settings of the rows that it was trained on; none where no run says."""


def origin(uri: str, tracking_uri: str | None = None) -> Origin:
    """Where the model of a URI, as `load` takes it, comes from."""
    if not uri.startswith(("models:", "runs:")):
        places = (Store(uri), Store(Store(uri).root.rstrip("/").rpartition("/")[0]))
        return Origin("", next((_data_settings(place) for place in places if _data_settings(place)), None))
    with reading(find(tracking_uri)) as client, tempfile.TemporaryDirectory(prefix="raydc-") as folder:
        name, *chosen = re.split("[@/]", uri.removeprefix("models:/"))
        if uri.startswith("runs:"):
            run_id = uri.split("/")[1]
        elif not chosen:
            run_id = client.get_logged_model(name).source_run_id
        else:
            version = _version(client, name, chosen[0], "@" in uri)
            uri, run_id = f"models:/{name}/{version}", client.get_model_version(name, version).run_id
        for item in client.list_artifacts(run_id) if run_id else []:
            if item.path in SETTINGS_OF:
                client.download_artifacts(run_id, item.path, folder)
        return Origin(uri, _data_settings(Store(folder)))


def _data_settings(store: Store) -> Mapping[str, Any] | None:
    """Settings of the rows of a run or a search; none where the folder is of neither."""
    if store.exists("config.yaml"):
        return yaml.safe_load(store.read_text("config.yaml"))["data"]
    return json.loads(store.read_text("tune.json"))["settings"]["data"] if store.exists("tune.json") else None


def _download(uri: str, folder: str, tracking_uri: str) -> Path:
    """The folder of a model's files, which have the checksum that was recorded."""
    if not REFERENCE.fullmatch(uri):
        raise RegistryError(
            f"expected models:/NAME@ALIAS, models:/NAME/VERSION, models:/NAME/latest or runs:/RUN_ID/model, got {uri!r}"
        )
    with reading(tracking_uri) as client:
        location, expected = _locate(client, uri)
        files = f"{location}/artifacts/model"
        model = Path(mlflow.artifacts.download_artifacts(files, dst_path=folder, tracking_uri=tracking_uri))
    others = sorted(path.name for path in model.iterdir() if not FILE.fullmatch(path.name))
    if others:
        raise ModelError(f"{uri} is no model of raydc: it also holds {', '.join(others)[:200]}")
    if expected is not None and sha256_of(model) != expected:
        raise ModelError(f"{uri} is damaged: its files do not have the checksum of its registration")
    return model


def _locate(client: MlflowClient, uri: str) -> tuple[str, str | None]:
    """Where a model's files are, and the checksum that it was recorded with."""
    if uri.startswith("runs:/"):
        run_id = uri.split("/")[1]
        tags = client.get_run(run_id).data.tags
        if "raydc.model_uri" not in tags:
            raise RegistryError(f"run {run_id} has no model of raydc; was it finished?")
        return _locate(client, tags["raydc.model_uri"])
    name, *chosen = re.split("[@/]", uri.removeprefix("models:/"))
    if not chosen:
        model = client.get_logged_model(name)
        return str(model.artifact_location), model.tags.get("raydc.sha256")
    version = _version(client, name, chosen[0], "@" in uri)
    expected = client.get_model_version(name, version).tags.get("raydc.sha256")
    if expected is None:
        raise RegistryError(f"{uri} was not registered by raydc: it has no tag raydc.sha256")
    location = str(client.get_model_version_download_uri(name, version))
    if location.startswith("models:/m-"):
        location = str(client.get_logged_model(location.removeprefix("models:/")).artifact_location)
    return location, expected


def _version(client: MlflowClient, name: str, chosen: str, is_alias: bool) -> str:
    """The version of a registered model that an alias, a number or "latest" stands for; RegistryError lists others."""
    versions = sorted(int(version.version) for version in client.search_model_versions(f"name = '{name}'"))
    if not versions:
        known = [model.name for model in client.search_registered_models(max_results=1000)]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {_listed(known) or 'none'}"
        raise RegistryRefused(f"MLflow has no registered model {name!r} with a version; {hint}")
    if chosen == "latest" and not is_alias:
        return str(versions[-1])
    aliases = {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}
    if is_alias and chosen in aliases:
        return aliases[chosen]
    if not is_alias and int(chosen) in versions:
        return str(int(chosen))
    held = [*(f"@{alias} (version {version})" for alias, version in sorted(aliases.items()))]
    held += [f"/{version}" for version in reversed(versions)]
    what = f"alias {chosen!r}" if is_alias else f"version {chosen}"
    raise RegistryRefused(f"models:/{name} has no {what}; it has {_listed(held)}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def fetch(run_id: str, folder: str | Path, tracking_uri: str | None = None) -> None:
    """Put what a recorded run or search wrote (what its report is drawn from, assignments, model) into `folder`."""
    if not RUN_ID.fullmatch(run_id):
        raise RegistryError(f"expected an MLflow run id (32 hexadecimal digits) or a run's directory, got {run_id!r}")
    uri = find(tracking_uri)
    with reading(uri) as client:
        for item in client.list_artifacts(run_id):
            if item.path in (*RECORD, "assignments"):
                client.download_artifacts(run_id, item.path, str(folder))
    with tempfile.TemporaryDirectory(prefix="raydc-") as scratch:
        shutil.copytree(_download(f"runs:/{run_id}/model", scratch, uri), Path(folder, "model"), dirs_exist_ok=True)
