"""The commands, by name, and the exit code of what goes wrong."""

import difflib
import errno
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from raydc.cli.overview import overview
from raydc.cli.parser import CommandParser, data_of, read_run, settings_file
from raydc.core import garbage
from raydc.core.errors import Occupied, WorkersLost
from raydc.core.settings import SettingsError, build, described, flatten, unflatten
from raydc.data.settings import DataSettings
from raydc.distributed import ray_cluster

USAGE_ERROR, DATA_ERROR, UNAVAILABLE, FAILED, NO_OUTPUT, IO_ERROR, TRY_AGAIN, NOT_PERMITTED = (
    64, 65, 69, 70, 73, 74, 75, 77
)  # fmt: skip
"""Exit codes as in sysexits.h: usage; data; no such service; software; output that cannot be made; input or output that
failed; interrupted, occupied or not yet in MLflow, so try again; permission."""
DRIFTED = 80
"""Exit code of a look at rows that are not like those trained on, beyond those of sysexits.h."""


HELP = ("-h", "--help", "--help-all")
"""Asks for the overview, as no argument at all does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code. Without arguments it takes those of the process, which is then its own."""
    if arguments is None:
        garbage.leave()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for chatty in ("alembic", "mlflow", "ray", "optuna"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--insecure" in arguments:
        os.environ[ray_cluster.INSECURE] = "1"  # beside the rest of what is known of the cluster
    if not arguments or arguments[0] in HELP:
        print(overview())
        return 0
    try:
        return COMMANDS[_named(arguments[0])](arguments[1:])
    except SettingsError as problem:
        return _fail(USAGE_ERROR, problem)
    except ConnectionError as problem:  # a registry that is away is a ValueError as well
        return _fail(UNAVAILABLE, problem)
    except ValueError as problem:
        return _fail(DATA_ERROR, problem)
    except ray_cluster.NotPermitted as problem:
        return _fail(NOT_PERMITTED, problem)
    except WorkersLost as problem:
        return _fail(FAILED, problem)
    except Occupied as problem:
        return _fail(TRY_AGAIN, problem)
    except MemoryError as problem:
        return _fail(TRY_AGAIN, problem)
    except NotADirectoryError as problem:
        return _fail(NO_OUTPUT, problem.strerror or problem)
    except OSError as problem:
        if problem.errno is None:
            raise
        code = NO_OUTPUT if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT) else IO_ERROR
        return _fail(code, f"{problem}; what was complete is kept, and the same command goes on")


def _fail(code: int, problem: BaseException | str) -> int:
    """The code, and the problem in words: its kind, where it has none of its own."""
    print(f"raydc: {problem if str(problem) else type(problem).__name__}", file=sys.stderr)
    return code


def _named(name: str) -> str:
    """The command of this name. SettingsError, with the nearest one, if there is none."""
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"first comes one of {', '.join(COMMANDS)}"
        raise SettingsError(f"{name}: no such command; {hint}")
    return name


def _train(arguments: Sequence[str]) -> int:
    config, dry, seeds = read_run(arguments)
    from raydc.cli import console
    from raydc.pipelines import train as train_pipeline

    if dry:
        garbage.collect()
        console.plan(train_pipeline.plan(config))
        return 0
    if seeds is not None:
        from raydc.pipelines.seeds import seeds_of, train_over_seeds

        several = seeds_of(seeds)
        return _watched(
            lambda stop: console.over_seeds(train_over_seeds(config, several, console.Live, stop), config.output.out)
        )
    return _watched(lambda stop: train_pipeline.train_and_record(config, console.Live(), stop))


def _watched(action: Callable[[threading.Event], Any]) -> int:
    """Run it; the first Ctrl-C or SIGTERM asks it to save and stop, the second ends it at once."""
    from raydc.search import SearchError, SearchInterrupted
    from raydc.tracking.tracker import RecordPending
    from raydc.training.checkpoint import CheckpointError
    from raydc.training.loop import TrainingDiverged
    from raydc.training.placement import NoRoom
    from raydc.training.trainer import Interrupted, TrainingFailed

    stop = threading.Event()

    def ask(number: int, frame: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()
        print("raydc: saving, at the end of this epoch at the latest; once more ends it at once", file=sys.stderr)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    garbage.collect()
    try:
        action(stop)
    except (Interrupted, SearchInterrupted, RecordPending, NoRoom) as problem:
        return _fail(TRY_AGAIN, problem)
    except (CheckpointError, TrainingDiverged, TrainingFailed, SearchError) as problem:
        return _fail(FAILED, problem)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _assign(arguments: Sequence[str]) -> int:
    parser = CommandParser("assign", "Assign rows to the clusters of a registered model; Parquet in, Parquet out.")
    parser.add_argument("--out", required=True, help="directory (or URI) for the assignments")
    parser.add_argument("--workers", type=int, default=0, help="processes under Ray; 0 works in this one [0]")
    parser.add_argument(
        "--outliers", type=float, metavar="SHARE",
        help="label -1 for what lies farther out than all but this share of the training rows of its cluster, as .05",
    )  # fmt: skip
    parser.add_argument("--level", type=int, metavar="K", help="cut the model's tree of clusters to as many")
    parser.ray()
    parser.model_and_rows()
    given = parser.parse_args(arguments)
    from raydc.cli import console
    from raydc.pipelines.assign import assign
    from raydc.training.labels import Asked

    garbage.collect()
    summary = assign(
        given.model,
        data_of(given),
        given.out,
        workers=given.workers,
        tracking_uri=given.tracking_uri,
        allow_code=given.allow_code,
        asked=Asked(given.level, given.outliers),
    )
    console.assigned(summary)
    return 0


def _edit(arguments: Sequence[str]) -> int:
    parser = CommandParser("edit", "Merge, split, rename and drop clusters of a model by hand; nothing is trained.")
    parser.usage = "raydc edit --model MODEL {--merge A,B | --split A | --rename A=NAME | --drop A ...} --register NAME"
    parser.model_and_rows(needed=False)
    from raydc.cli import edit

    return edit.run(parser, arguments, data_of)


def _embed(arguments: Sequence[str]) -> int:
    parser = CommandParser(
        "embed", "Make vectors of texts or pictures by an encoder: Parquet that train and tune read."
    )
    parser.usage = "raydc embed --data PATH --encoder NAME --out DIR [--SETTING VALUE ...]"
    parser.ray()
    parser.settings(
        "data",
        described(DataSettings, "data"),
        leave=["data.scaling", "data.storage"],
        needed=["data.path", "data.encoder"],
    )
    from raydc.cli import embed

    return embed.run(parser, arguments, data_of, _watched)


def _sample(arguments: Sequence[str]) -> int:
    parser = CommandParser("sample", "Take rows by a model: a balanced sample, prototypes, or near duplicates.")
    parser.ray()
    parser.model_and_rows()
    from raydc.cli import sample

    return sample.run(parser, arguments, data_of)


def _watch(arguments: Sequence[str]) -> int:
    parser = CommandParser("watch", "Compare new rows with those that a model was trained on: have they drifted?")
    parser.ray()
    parser.model_and_rows()
    from raydc.cli import watch

    return watch.run(parser, arguments, data_of)


def _serve(arguments: Sequence[str]) -> int:
    parser = CommandParser("serve", "Answer requests over HTTP with a model on Ray Serve, until Ctrl-C or SIGTERM.")
    parser.usage = "raydc serve --model models:/digits@champion [--SETTING VALUE ...]"
    parser.ray()
    from raydc.cli import serve

    return serve.run(parser, arguments)


def _report(arguments: Sequence[str]) -> int:
    parser = CommandParser("report", "Draw a run or a search: pictures and one HTML page.")
    parser.add_argument("--run", required=True, help="an MLflow run id, or an output directory")
    parser.add_argument("--out", required=True, help="directory for the report")
    parser.add_argument(
        "--rows", type=int, default=100_000, metavar="N", help="rows in the interactive page, at most [100000]"
    )
    parser.allow_code()
    parser.add_argument("--tracking-uri", help="MLflow's store; by default as MLflow finds it")
    given = parser.parse_args(arguments)
    if given.rows < 1:
        raise SettingsError(f"--rows: expected 1 or more, got {given.rows}")
    from raydc.core.storage import Store
    from raydc.pipelines.report import model_of, opened, report
    from raydc.pipelines.report.page import claimable
    from raydc.search.record import redraw

    garbage.collect()
    to = claimable(Store(given.out))
    with opened(given.run, given.tracking_uri) as store:
        drawn = (
            redraw(store, to, model_of(given.run, store), given.rows)
            if store.exists("search.json")
            else report(given.run, given.out, given.tracking_uri, allow_code=given.allow_code, shown=given.rows)
        )
    for path in drawn:
        print(path)
    return 0


def _tune(arguments: Sequence[str]) -> int:
    from raydc.search import TuneSettings

    parser = CommandParser("tune", "Search a method's settings without labels, and register the winner.")
    parser.usage = "raydc tune --data PATH --out DIR [--space NAME] [--n-clusters 2..30] [--SETTING VALUE ...]"
    parser.add_argument("--config", metavar="FILE", help="settings in YAML; options given beside it win")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SETTING=VALUE",
        help="a setting that every trial has, such as method.pretrain.length=50; may be given several times",
    )  # fmt: skip
    parser.ray()
    parser.settings("settings", described(TuneSettings), leave=["fixed"])
    given = vars(parser.parse_args(arguments))
    values = settings_file(arguments, ["data"])
    fixed = dict(pair.partition("=")[::2] for pair in given.pop("set"))
    given.pop("config"), given.pop("insecure")
    before = values.pop("fixed", {})
    merged = unflatten(flatten(values) | given)
    merged["fixed"] = flatten(before) | fixed if isinstance(before, dict) else before
    settings = build(TuneSettings, merged)
    from raydc.cli import console

    live = console.LiveSearch()
    return _watched(lambda stop: live.run(settings, stop))


def _registry(arguments: Sequence[str]) -> int:
    parser = CommandParser("registry", "List, show and promote registered models; send MLflow what it missed of a run.")
    parser.usage = "raydc registry {list | show NAME | promote NAME/VERSION | flush --out DIR}"
    parser.add_argument("action", choices=["list", "show", "promote", "flush"], help="what to do")
    parser.add_argument("model", nargs="?", help="show: a model's name; promote: NAME/VERSION, such as digits/2")
    parser.add_argument("--out", help="flush: the output directory whose record MLflow lacks")
    parser.add_argument("--tracking-uri", help="MLflow's store; flush: by default the one that it was written for")
    given = parser.parse_args(arguments)
    needs = {"list": None, "show": "model", "promote": "model", "flush": "out"}[given.action]
    for name, spelled in (("model", "a MODEL"), ("out", "--out DIR")):
        if (getattr(given, name) is None) == (name == needs):
            said = f"expected {spelled}" if name == needs else f"takes no {spelled.removeprefix('a ')}"
            raise SettingsError(f"registry {given.action}: {said}; raydc registry --help")
    from raydc.cli import console, registry

    match given.action:
        case "list":
            registry.show_all(given.tracking_uri)
            return 0
        case "show":
            registry.show(given.model, given.tracking_uri)
            return 0
        case "promote":
            registry.promote(given.model, given.tracking_uri)
            return 0
    from raydc.tracking.tracker import RecordPending, flush

    try:
        console.flushed(*flush(given.out, given.tracking_uri))
    except RecordPending as problem:
        return _fail(TRY_AGAIN, problem)
    return 0


def _methods(arguments: Sequence[str]) -> int:
    parser = CommandParser("methods", "List the methods with their rows of the taxonomy's Table 1, or tell all of one.")
    parser.usage = "raydc methods [NAME] [--markdown]"
    parser.add_argument("name", nargs="?", metavar="NAME", help="a method, to see its settings")
    parser.add_argument("--markdown", action="store_true", help="as the manual's table")
    given = parser.parse_args(arguments)
    from raydc.cli import methods_table

    if given.name is None:
        methods_table.show(markdown=given.markdown)
    else:
        methods_table.show_one(given.name)
    return 0


def _new_method(arguments: Sequence[str]) -> int:
    parser = CommandParser("new-method", "Write a method to begin with: a commented file, and its test.")
    parser.usage = "raydc new-method NAME [--out DIR]"
    parser.add_argument("name", metavar="NAME", help="its name: NAME.py and test_NAME.py are written")
    parser.add_argument("--out", default=".", metavar="DIR", help="directory for the two files [.]")
    given = parser.parse_args(arguments)
    from raydc.cli import new_method

    code, test = new_method.write(given.name, given.out)
    print(
        f"{code}\n{test}\nnext: pytest {test}\n      raydc train --data digits --method {code} --workers 0 --out runs/a"
    )
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": _train,
    "embed": _embed,
    "tune": _tune,
    "assign": _assign,
    "edit": _edit,
    "serve": _serve,
    "sample": _sample,
    "watch": _watch,
    "report": _report,
    "registry": _registry,
    "methods": _methods,
    "new-method": _new_method,
}

if __name__ == "__main__":
    sys.exit(main())
