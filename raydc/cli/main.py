"""The commands. Settings have one spelling, dotted, here and in YAML files, MLflow parameters and search spaces."""

import argparse
import difflib
import errno
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raydc import methods
from raydc.cli.overview import MATTER, overview
from raydc.core import garbage
from raydc.core.errors import Occupied
from raydc.core.registries import Registry
from raydc.core.settings import SettingsError, build, described, flatten, unflatten
from raydc.data.settings import ENCODERS, SOURCES, DataSettings
from raydc.distributed import ray_cluster
from raydc.methods.index import Entry, entry_of
from raydc.search.settings import CRITERIA, SPACES
from raydc.training.config import GROUPS, SHORT, Output, RunConfig, Training, overlaid, read_yaml

USAGE_ERROR, DATA_ERROR, UNAVAILABLE, FAILED, NO_OUTPUT, IO_ERROR, TRY_AGAIN, NOT_PERMITTED = (
    64, 65, 69, 70, 73, 74, 75, 77
)  # fmt: skip
"""Exit codes as in sysexits.h: usage; data; no such service; software; output that cannot be made; input or output that
failed; interrupted, occupied or not yet in MLflow, so try again; permission."""


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


class _Command(argparse.ArgumentParser):
    """A parser whose errors are SettingsErrors, and that knows dotted settings."""

    def __init__(self, name: str, description: str = "", add_help: bool = True) -> None:
        self.spelled: list[str] = []
        """How the options are spelled."""
        super().__init__(prog=f"raydc {name}", description=description, allow_abbrev=False, add_help=add_help)
        self.further: list[argparse.Action] = []
        """Options that --help leaves to --help-all."""

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """As argparse does."""
        self.spelled += names
        return super().add_argument(*names, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does; --help shows the options that matter, --help-all every one."""
        if "--help-all" not in (args or ()):
            for action in self.further:
                action.help = argparse.SUPPRESS
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> Any:
        raise SettingsError(message.removeprefix("argument "))

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does; SettingsError, with the nearest option, for what it does not know."""
        given, unknown = self.parse_known_args(args, namespace)
        self.refuse(unknown)
        return given

    def refuse(self, unknown: Sequence[str]) -> None:
        """SettingsError where there are arguments that are no option of this command."""
        options = [argument.split("=")[0] for argument in unknown if argument.startswith("-")]
        if options:
            near = difflib.get_close_matches(options[0], self.spelled, n=1)
            if options[0].startswith("--method.") and self.prog == "raydc tune":
                raise SettingsError(f"{options[0]}: every trial has it by --set {options[0].removeprefix('--')}=VALUE")
            hint = f"did you mean {near[0]}?" if near else f"{self.prog} --help lists them"
            raise SettingsError(f"{options[0]}: no such option; {hint}")
        if unknown:
            raise SettingsError(f"{unknown[0]!r}: expected an option; {self.prog} --help lists them")

    def ray(self) -> None:
        """The option of every command that may work on a Ray cluster."""
        self.add_argument("--insecure", action="store_true", help="use a Ray cluster that asks for no token")

    def allow_code(self) -> None:
        """The option of every command that loads a model."""
        self.add_argument(
            "--allow-code", action="append", default=[], metavar="NAME",
            help="full name of a method from elsewhere, whose code a model of it may have run; several times",
        )  # fmt: skip

    def model_and_rows(self) -> None:
        """The options of every command that asks a model of rows."""
        self.add_argument("--model", required=True, help="models:/NAME@champion, models:/NAME/3, or a model's folder")
        self.allow_code()
        self.add_argument("--tracking-uri", help="MLflow's store; by default as MLflow finds it")
        self.settings(
            "data",
            described(DataSettings, "data"),
            leave=["data.scaling", "data.storage", "data.label_column", "data.weight_column"],
        )

    def settings(self, title: str, settings: Mapping[str, str], leave: Sequence[str] = ()) -> None:
        """An option for every setting, by its dotted path, with what help says of it."""
        group = self.add_argument_group(title)
        short = {path: name for name, path in SHORT.items()}
        if not self.further:
            self.add_argument("--help-all", action="help", help="show every setting, also those seldom needed")
        for path, said in settings.items():
            if path not in leave:
                said += _added(path)
                # a setting without dots has dashes on the command line, as short forms have
                spelled = path if "." in path else path.replace("_", "-").replace("register-as", "register")
                names = [*([f"--{short[path]}"] if path in short else []), f"--{spelled}"]
                self.spelled += names
                option = group.add_argument(
                    *names, dest=path, metavar="VALUE", default=argparse.SUPPRESS,
                    help=said.replace("%", "%%"),
                )  # fmt: skip
                if path not in MATTER:
                    self.further.append(option)


def _added(path: str) -> str:
    """What others add to the choices of a setting, for its help."""
    registries: dict[str, Registry[Any]] = {
        "data.path": SOURCES,
        "data.encoder": ENCODERS,
        "criterion": CRITERIA,
        "space": SPACES,
    }
    names = registries[path].names() if path in registries else []
    return f" Others add: {', '.join(names)}." if names else ""


def _method_of(arguments: Sequence[str], values: dict[str, Any]) -> Entry | None:
    """The method that the arguments or the configuration file name, so that its own settings are known."""
    group = values.get("method", {})
    inside = group.get("name") if isinstance(group, dict) else None
    name = _early(arguments, "--method", "--method.name") or inside
    if not name:
        return None
    # only help may rest on what was written down of a method
    helping = {"-h", "--help"} & {*arguments}
    return methods.describe(str(name)) if helping else entry_of(methods.load(str(name)))


def _from_file(arguments: Sequence[str], groups: Sequence[str] = GROUPS) -> dict[str, Any]:
    path = _early(arguments, "--config")
    return read_yaml(path, groups) if path else {}


def _early(arguments: Sequence[str], *names: str) -> str | None:
    """The value of an option that decides which others there are."""
    parser = _Command("", add_help=False)
    parser.add_argument(*names, dest="value")
    value: str | None = parser.parse_known_args(arguments)[0].value
    return value


def _run_parser(method: Entry | None) -> _Command:
    parser = _Command("train", "Train a method on rows, and register the model.")
    parser.usage = "raydc train --data PATH --method NAME --out DIR [--SETTING VALUE ...]"
    parser.add_argument("--config", metavar="FILE", help="settings in YAML; options given beside it win")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print plan and cost, start nothing")
    parser.add_argument(
        "--seeds", metavar="0..4",
        help="train once with each seed, in DIR/seed-0 and so on, and tell mean and deviation of every measure",
    )  # fmt: skip
    parser.ray()
    group, names = parser.add_argument_group("method"), ("--method", "--method.name")
    parser.spelled += names
    group.add_argument(
        *names, dest="method.name", metavar="NAME", default=argparse.SUPPRESS,
        help=f"one of {', '.join(methods.available())}, or your own: path/to/file.py, or module[:Class]",
    )  # fmt: skip
    if method is not None:
        parser.settings(f"settings of {method.title}", method.settings)
    else:
        group.description = "Name a method to see its own settings: raydc train --method dec --help."
    parser.settings("data", described(DataSettings, "data"))
    parser.settings("training", described(Training, "training"))
    parser.settings("output", described(Output, "output"))
    return parser


def read_run(arguments: Sequence[str]) -> tuple[RunConfig, bool, str | None]:
    """The configuration that arguments and --config give, whether it is a dry run, and the seeds if they are several.

    SettingsError lists problems.
    """
    values = _from_file(arguments)
    parser = _run_parser(_method_of(arguments, values))
    given, unknown = parser.parse_known_args(arguments)
    flat = {key: value for key, value in vars(given).items() if "." in key}
    names = [name.lstrip("-").split("=")[0] for name in unknown if name.startswith("--")]
    dotted = {name: "" for name in names if "." in name}  # refused below, with what is known of their group
    parser.refuse([f"--{name}" for name in names if "." not in name] or ([] if dotted else unknown))
    if given.seeds is not None and "training.seed" in flat:
        raise SettingsError("--seeds and --training.seed: expected one of them")
    return RunConfig.of(overlaid(values, flat | dotted)), given.dry_run, given.seeds


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
    from raydc.pipelines.chunks import WorkersLost
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
    except (CheckpointError, TrainingDiverged, TrainingFailed, SearchError, WorkersLost) as problem:
        return _fail(FAILED, problem)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _assign(arguments: Sequence[str]) -> int:
    parser = _Command("assign", "Assign rows to the clusters of a registered model; Parquet in, Parquet out.")
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
    from raydc.pipelines.chunks import WorkersLost
    from raydc.training.labels import Asked

    garbage.collect()
    try:
        summary = assign(
            given.model,
            data_of(given),
            given.out,
            workers=given.workers,
            tracking_uri=given.tracking_uri,
            allow_code=given.allow_code,
            asked=Asked(given.level, given.outliers),
        )
    except WorkersLost as problem:
        return _fail(FAILED, problem)
    console.assigned(summary)
    return 0


def data_of(given: argparse.Namespace) -> DataSettings:
    """The settings of the data among a command's options. SettingsError lists what is wrong with them."""
    flat = {key: value for key, value in vars(given).items() if key.startswith("data.")}
    return build(DataSettings, unflatten(flat).get("data", {}), at="data")


def _edit(arguments: Sequence[str]) -> int:
    parser = _Command("edit", "Merge, split, rename and drop clusters of a model by hand; nothing is trained.")
    parser.usage = "raydc edit --model MODEL {--merge A,B | --split A | --rename A=NAME | --drop A ...} --register NAME"
    parser.model_and_rows()
    from raydc.cli import edit

    return edit.run(parser, arguments, data_of)


def _embed(arguments: Sequence[str]) -> int:
    parser = _Command("embed", "Make vectors of texts or pictures by an encoder: Parquet that train and tune read.")
    parser.usage = "raydc embed --data PATH --encoder NAME --out DIR [--SETTING VALUE ...]"
    parser.ray()
    parser.settings("data", described(DataSettings, "data"), leave=["data.scaling", "data.storage"])
    from raydc.cli import embed

    return embed.run(parser, arguments, data_of, _watched)


def _sample(arguments: Sequence[str]) -> int:
    parser = _Command("sample", "Take rows by a model: a balanced sample, prototypes, or near duplicates.")
    parser.ray()
    parser.model_and_rows()
    from raydc.cli import sample

    return sample.run(parser, arguments, data_of)


def _watch(arguments: Sequence[str]) -> int:
    parser = _Command("watch", "Compare new rows with those that a model was trained on: have they drifted?")
    parser.ray()
    parser.model_and_rows()
    from raydc.cli import watch

    return watch.run(parser, arguments, data_of)


def _serve(arguments: Sequence[str]) -> int:
    parser = _Command("serve", "Answer requests over HTTP with a model on Ray Serve, until Ctrl-C or SIGTERM.")
    parser.usage = "raydc serve --model models:/digits@champion [--SETTING VALUE ...]"
    parser.ray()
    from raydc.cli import serve

    return serve.run(parser, arguments)


def _report(arguments: Sequence[str]) -> int:
    parser = _Command("report", "Draw a run or a search: pictures and one HTML page.")
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

    Store(given.out).directory()
    from raydc.pipelines.report import model_of, opened, report
    from raydc.search.record import redraw

    garbage.collect()
    with opened(given.run, given.tracking_uri) as store:
        drawn = (
            redraw(store, Store(given.out), model_of(given.run, store), given.rows)
            if store.exists("search.json")
            else report(given.run, given.out, given.tracking_uri, allow_code=given.allow_code, shown=given.rows)
        )
    for path in drawn:
        print(path)
    return 0


def _tune(arguments: Sequence[str]) -> int:
    from raydc.search import TuneSettings

    parser = _Command("tune", "Search a method's settings without labels, and register the winner.")
    parser.usage = "raydc tune --data PATH --space tune_spaces/dec.py --trials 24 --out DIR [--SETTING VALUE ...]"
    parser.add_argument("--config", metavar="FILE", help="settings in YAML; options given beside it win")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SETTING=VALUE",
        help="a setting that every trial has, such as method.pretrain.length=50; may be given several times",
    )  # fmt: skip
    parser.ray()
    parser.settings("settings", described(TuneSettings), leave=["fixed"])
    given = vars(parser.parse_args(arguments))
    values = _from_file(arguments, ["data"])
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
    parser = _Command("registry", "List, show and promote registered models; send MLflow what it missed of a run.")
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
    parser = _Command("methods", "List the methods with their rows of the taxonomy's Table 1, or tell all of one.")
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
    parser = _Command("new-method", "Write a method to begin with: a commented file, and its test.")
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
