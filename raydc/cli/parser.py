"""Options of the commands: a setting has one spelling, dotted, here and in YAML files, MLflow parameters and spaces."""

import argparse
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from raydc import methods
from raydc.cli.overview import MATTER
from raydc.core.registries import Registry
from raydc.core.settings import SettingsError, build, described, unflatten
from raydc.data.settings import ENCODERS, SOURCES, DataSettings
from raydc.methods.index import Entry, entry_of
from raydc.search.settings import CRITERIA, SPACES
from raydc.training.config import GROUPS, SHORT, Output, RunConfig, Training, overlaid, read_yaml


class CommandParser(argparse.ArgumentParser):
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
            if options[0].lstrip("-") in SHORT and not near:
                hint = "methods have it: name one by --method"
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

    def model_and_rows(self, needed: bool = True) -> None:
        """The options of every command that asks a model of rows, which have to be given where they are `needed`."""
        self.add_argument("--model", required=True, help="models:/NAME@champion, models:/NAME/3, or a model's folder")
        self.allow_code()
        self.add_argument("--tracking-uri", help="MLflow's store; by default as MLflow finds it")
        self.settings(
            "data",
            described(DataSettings, "data"),
            leave=["data.scaling", "data.storage", "data.label_column", "data.weight_column"],
            needed=["data.path"] if needed else (),
        )

    def settings(
        self, title: str, settings: Mapping[str, str], leave: Sequence[str] = (), needed: Sequence[str] = ()
    ) -> None:
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
                    help=said.replace("%", "%%"), required=path in needed,
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


def settings_file(arguments: Sequence[str], groups: Sequence[str] = GROUPS) -> dict[str, Any]:
    """What the file of --config says, of these groups of settings; nothing where there is none."""
    path = _early(arguments, "--config")
    return read_yaml(path, groups) if path else {}


def _early(arguments: Sequence[str], *names: str) -> str | None:
    """The value of an option that decides which others there are."""
    parser = CommandParser("", add_help=False)
    parser.add_argument(*names, dest="value")
    value: str | None = parser.parse_known_args(arguments)[0].value
    return value


def _run_parser(method: Entry | None) -> CommandParser:
    parser = CommandParser("train", "Train a method on rows, and register the model.")
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
    values = settings_file(arguments)
    parser = _run_parser(_method_of(arguments, values))
    given, unknown = parser.parse_known_args(arguments)
    flat = {key: value for key, value in vars(given).items() if "." in key}
    names = [name.lstrip("-").split("=")[0] for name in unknown if name.startswith("--")]
    dotted = {name: "" for name in names if "." in name}  # refused below, with what is known of their group
    parser.refuse([f"--{name}" for name in names if "." not in name] or ([] if dotted else unknown))
    if given.seeds is not None and "training.seed" in flat:
        raise SettingsError("--seeds and --training.seed: expected one of them")
    return RunConfig.of(overlaid(values, flat | dotted)), given.dry_run, given.seeds


def data_of(given: argparse.Namespace) -> DataSettings:
    """The settings of the data among a command's options. SettingsError lists what is wrong with them."""
    flat = {key: value for key, value in vars(given).items() if key.startswith("data.")}
    return build(DataSettings, unflatten(flat).get("data", {}), at="data")
