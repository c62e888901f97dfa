"""Pages that are made from the code: a page for each method, all settings, the API, and the tables of figures.

Methods are imported for their settings, everything else is read as text. `write` makes all pages anew.
"""

import ast
import inspect
import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raydc import methods
from raydc.core.schedule import Phase
from raydc.core.settings import Settings, fields
from raydc.data.settings import DataSettings
from raydc.methods.base import Method
from raydc.search.settings import TuneSettings
from raydc.training.config import SHORT, Output, Training

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / "raydc"
FIGURES: dict[str, Any] = json.loads((DOCS / "figures.json").read_text())
ROOMS = {
    "pipelines": "training and assignment from end to end",
    "search": "tuning without labels",
    "training.model": "a trained model, and what it says of rows",
    "training.model_files": "the files of a model",
    "training.labels": "ids, names and edits of clusters",
    "tracking": "MLflow",
    "methods": "what a method is made of",
    "clustering": "what a method sees of other workers; k-means, graphs, linkage",
    "data": "sources, checks, scaling, shards",
    "networks": "autoencoders and classifiers",
    "networks.losses": "pure functions",
    "clustering.metrics": "scores with labels, and without",
    "core.settings": "the base of every configuration",
    "pipelines.report": "pictures and the page",
    "api.plugins": "names of your own",
    "testing": "the contract of methods, for those of your own",
}
"""What others may build on, rooms and modules."""
OWN = ("training", "distributed", "clustering.centroid_service", "core", "cli")
"""What is raydc's own, but for what stands above."""


def write(to: Path) -> None:
    """All generated pages, in place of those before."""
    shutil.rmtree(to, ignore_errors=True)
    names = methods.available()
    pages = {f"methods/{name}": method_page(name) for name in names}
    pages |= {"methods/index": methods_index(names), "settings": settings_page(), "figures": figures_table()}
    pages |= {f"api/{room}": room_page(room) for room in ROOMS}
    pages |= {"api/raydc": package_page(), "api/index": api_index()}
    for name, text in pages.items():
        path = to / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"))


def method_page(name: str) -> str:
    """What a method is, when to take it, figures, cost and settings; FIGURES has what its code does not say."""
    kind, about = methods.load(name), FIGURES["methods"].get(name, {})
    info = kind.info
    taxonomy = [
        ("source", info.source),
        ("network", info.architecture),
        ("clustered", info.features),
        ("network loss", info.network_loss),
        ("clustering loss", info.clustering_loss),
        ("combination", info.combination),
        ("updates", info.updates),
        ("after training", info.after),
        ("several workers", "the same as one" if info.parallel == "exact" else info.parallel),
        ("new rows", f"no: {info.refuses}" if info.refuses else "yes"),
    ]
    given = "" if kind.finds_clusters() else " --n-clusters 10"
    command = f"raydc train --data digits --method {name}{given} --workers 0 \\\n    --dry-run --out runs/{name}"
    parts = [
        f"# {name}",
        markdown(inspect.getdoc(sys.modules[kind.__module__]) or ""),
        table(("", ""), taxonomy),
        *(["## When to take it", about["take"]] if about else []),
        *figures_of(name),
        "## Cost",
        *([about["cost"]] if about else []),
        *phases_of(kind),
        "This prints the plan and what it costs on your machine; without `--dry-run` it trains:",
        f"```bash\n{command}\n```",
        "## Settings",
        settings_table(kind.Config, "method"),
    ]
    return "\n\n".join(parts) + "\n"


def figures_of(name: str) -> list[str]:
    """Its row of the figures, beside the shallow methods; nothing where it has none."""
    if name not in FIGURES["figures"]:
        return []
    rows = [*dict.fromkeys([name, "kmeans", "Ward", "kNN-spectral"])]
    return [
        "## Figures",
        f"{FIGURES['measure']}; how they are measured: [benchmarks](../../benchmarks.md).",
        figures_table(rows),
    ]


def figures_table(names: Sequence[str] = (), sets: Sequence[str] = ()) -> str:
    """ACC / NMI by method and data set: all of them, or those named."""
    sets = sets or FIGURES["sets"]
    rows = [(name, *(FIGURES["figures"][name].get(each, "") for each in sets)) for name in names or FIGURES["figures"]]
    return table((FIGURES["measure"], *sets), rows)


def short_figures() -> str:
    """The table of the README."""
    return figures_table(FIGURES["short"]["methods"], FIGURES["short"]["sets"])


def phases_of(kind: type[Method]) -> list[str]:
    """Lengths of the phases, by recipe."""
    recipes = ["default", *kind.Config.recipes]
    configs = [kind.Config(recipe=recipe) for recipe in recipes]
    names = [name for name in kind.Config.model_fields if isinstance(getattr(configs[0], name), Phase)]
    rows = [(name, *(getattr(config, name).length for config in configs)) for name in names]
    if not rows:
        return []
    head = f"Its training at most, in batches of {kind.batch_size} rows over all workers:"
    return [head, table(("phase", *(f"recipe {recipe}" for recipe in recipes)), rows)]


def methods_index(names: Sequence[str]) -> str:
    """All methods by the taxonomy's table, and where each one's page is."""
    intro = (
        "Each method is one file in `raydc/methods/`; its page says what follows the paper, what the authors' code, "
        "and what had to be decided. `raydc methods` prints this table. Which one to take: every search compares, and "
        "[the figures](../../benchmarks.md) show that a deep method is not always the better one."
    )
    pages = "\n".join(["```{toctree}", ":maxdepth: 1", "", *names, "```"])
    return "\n\n".join(["# Methods", intro, taxonomy(names), pages]) + "\n"


def taxonomy(names: Iterable[str]) -> str:
    """As `raydc methods --markdown` prints it."""
    head = ("method", "source", "network", "network loss", "clustering loss", "updates", "new rows")
    infos = {name: methods.load(name).info for name in names}
    rows = [
        (
            name,
            info.source,
            info.architecture,
            info.network_loss,
            info.clustering_loss,
            info.updates,
            "no" if info.refuses else "yes",
        )
        for name, info in infos.items()
    ]
    return table(head, rows)


def settings_page() -> str:
    """Settings that do not belong to a method."""
    groups: list[tuple[str, str, type[Settings], str]] = [
        ("Data", "data", DataSettings, "Which rows, and what happens to them before a network sees them."),
        ("Training", "training", Training, "Where and how a run is trained."),
        ("Output", "output", Output, "Where its results go."),
        ("Search", "", TuneSettings, "What `raydc tune` takes; dashes stand for underscores on the command line."),
    ]
    intro = (
        "A setting has one spelling, with dots: on the command line (`--training.seed 1`), in the YAML file of "
        "`--config`, in MLflow's parameters, in search spaces and in Python. Short forms stand in brackets. Those of a "
        "method, such as `method.nu`, are on the method's page."
    )
    parts = ["# Settings", intro]
    for title, at, cls, text in groups:
        parts += [f"## {title}", text, settings_table(cls, at)]
    return "\n\n".join(parts) + "\n"


def settings_table(cls: type[Settings], at: str) -> str:
    """Every leaf setting with its default and its docstring."""
    short = {path: name for name, path in SHORT.items()}
    rows = []
    for path, field in fields(cls, at):
        default = "(required)" if field.is_required() else code(plain(field.get_default(call_default_factory=True)))
        name = code(path) + (f" (`--{short[path]}`)" if at and path in short else "")
        rows.append((name, default, markdown(field.description or "").replace("\n", " ")))
    return table(("setting", "default", "meaning"), rows)


def plain(value: Any) -> str:
    """A default as the command line takes it."""
    if value is None or isinstance(value, Mapping):
        return "none"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """As Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def markdown(docstring: str) -> str:
    """A docstring as Markdown: its paragraphs and lists stay, nothing else in it is markup."""
    lines = []
    for line in docstring.splitlines():
        if not line.startswith("    "):  # an example, to be shown as it is
            parts = re.split(r"(`[^`]+`|\*\w+\*)", line)
            parts[::2] = [re.sub(r"([\\*_<>\[\]{}|$~^#])", r"\\\1", part) for part in parts[::2]]
            line = re.sub(r"^([+%(]|---|===|:)", r"\\\1", "".join(parts))
        lines.append(line)
    return "\n".join(lines)


def api_index() -> str:
    intro = (
        "What others may build on, from the docstrings: shapes stand in brackets, K is the number of clusters, D of "
        "features, N of rows, B of those of a batch. The rooms "
        f"{', '.join(f'`{room}`' for room in OWN)} are raydc's own, but for what is listed here, and may change in any "
        "release; [architecture](../../architecture.md) says what they hold."
    )
    listed = "\n".join(f"- [raydc.{room}]({room}.md): {text}" for room, text in ROOMS.items())
    listed = "- [raydc](raydc.md): what `import raydc` offers\n" + listed
    pages = "\n".join(["```{toctree}", ":hidden:", "", "raydc", *ROOMS, "```"])
    return "\n\n".join(["# API reference", intro, listed, pages]) + "\n"


def package_page() -> str:
    """What `raydc` itself offers: the names that its `__init__` imports for type checkers."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    offered = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and "raydc" in (node.module or "")]
    parts = ["# raydc", "```{py:module} raydc\n```"]
    done: set[str] = set()
    for node in offered:
        for alias in node.names:
            if alias.name not in done:
                done.add(alias.name)
                parts += definition(str(node.module), alias.name)
    return "\n\n".join(parts) + "\n"


def definition(module: str, name: str) -> list[str]:
    """The description of what a module defines under this name, or imports from another one."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return [described(node)]
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            return definition(str(node.module), name)
    return []


def room_page(room: str) -> str:
    """All public classes and functions of a room, module by module, without rooms in it that are listed themselves."""
    parts = [f"# raydc.{room}"]
    for path in modules_of(room):
        if room == "methods" and path.parent.name != "base":
            continue  # a method has its own page
        tree = ast.parse(path.read_text())
        described_here = [described(node) for node in public(tree.body)]
        if described_here:
            name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
            parts += [f"## {name}", f"```{{py:module}} {name}\n```", markdown(ast.get_docstring(tree) or "")]
            parts += described_here
    return "\n\n".join(parts) + "\n"


def modules_of(room: str) -> list[Path]:
    """Files of a room or module, without those of rooms within it that have a page of their own."""
    place = PACKAGE.joinpath(*room.split("."))
    within = [PACKAGE.joinpath(*other.split(".")) for other in (*ROOMS, *OWN) if other.startswith(f"{room}.")]
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    return [path for path in files if not any(path.is_relative_to(other) for other in within)]


def public(body: Iterable[ast.stmt]) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    """Documented classes and functions whose names do not begin with _, each name once."""
    seen: set[str] = set()
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            if ast.get_docstring(node) and node.name not in seen:
                seen.add(node.name)
                yield node


def described(node: ast.ClassDef | ast.FunctionDef, within: bool = False) -> str:
    """A directive of Sphinx's Python domain with the docstring, and for a class its documented members."""
    text = markdown(ast.get_docstring(node) or "")
    fence = "`" * (4 if within else 6)
    if isinstance(node, ast.FunctionDef):
        marks = {mark.id for mark in node.decorator_list if isinstance(mark, ast.Name)}
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        kind = "property" if "property" in marks else "method" if within else "function"
        options = f":type: {ast.unparse(node.returns)}\n" if kind == "property" and node.returns else ""
        options += "".join(f":{mark}:\n" for mark in ("classmethod", "staticmethod") if mark in marks)
        bound = within and "staticmethod" not in marks
        signature = "" if kind == "property" else f"({arguments(node, bound)}){returns}"
        return f"{fence}{{py:{kind}}} {node.name}{signature}\n{options}\n{text}\n{fence}"
    made = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    signature = f"({arguments(made, True)})" if made else ""
    members = [*attributes(node), *(described(member, True) for member in public(node.body))]
    return "\n\n".join([f"{fence}{{py:class}} {node.name}{signature}\n\n{text}", *members]) + f"\n{fence}"


def arguments(node: ast.FunctionDef, bound: bool) -> str:
    text = ast.unparse(node.args)
    return re.sub(r"^(self|cls)(: [^,]+)?(, )?(/, )?", "", text) if bound else text


def attributes(node: ast.ClassDef) -> Iterator[str]:
    """Fields that a string below them documents."""
    for field, after in zip(node.body, node.body[1:], strict=False):
        documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if documented and isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = inspect.cleandoc(str(after.value.value))
            kind = " ".join(ast.unparse(field.annotation).split())
            yield f"````{{py:attribute}} {field.target.id}\n:type: {kind}\n\n{markdown(text)}\n````"
