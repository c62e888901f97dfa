"""What `raydc` says when it is asked nothing: each command with a line and an example. Imports nothing else."""

COMMANDS = {
    "train": (
        "train a method on rows, and register the model",
        "raydc train --data rows/ --method dec --n-clusters 10 --out runs/a --register digits",
    ),
    "embed": (
        "make vectors of texts or pictures by an encoder, as rows to train on",
        "raydc embed --data photos/ --encoder efficientnet-lite0 --out rows/",
    ),
    "tune": (
        "search for the best method and settings without labels",
        "raydc tune --data rows/ --out runs/search --register digits",
    ),
    "assign": (
        "assign rows to the clusters of a model",
        "raydc assign --model models:/digits@champion --data new_rows/ --out assigned/",
    ),
    "edit": (
        "merge, split, rename and drop clusters of a model by hand",
        "raydc edit --model models:/digits@champion --merge 3,5 --rename 2=boots --register digits",
    ),
    "serve": (
        "answer requests over HTTP, with whichever model is champion",
        "raydc serve --model models:/digits@champion",
    ),
    "sample": (
        "take rows by a model: a balanced sample, prototypes, or near duplicates",
        "raydc sample --model models:/digits@champion --data rows/ --balanced --n 10000 --out sample/",
    ),
    "watch": (
        "compare new rows with those that a model was trained on; exit code 80 where they drifted",
        "raydc watch --model models:/digits@champion --data new_rows/ --out watched/2030-01-31",
    ),
    "report": (
        "draw a finished run or search anew: pictures and one page",
        "raydc report --run runs/a --out report/",
    ),
    "registry": (
        "list, show and promote registered models; send MLflow what it missed",
        "raydc registry list",
    ),
    "methods": (
        "list the methods and where they come from, or tell all of one",
        "raydc methods",
    ),
    "new-method": (
        "write a method of your own to begin with, and its test",
        "raydc new-method my_method --out methods/",
    ),
}
"""A line and an example of each command, in the order in which they are needed."""
MATTER = {
    "method.n_clusters", "data.path", "data.columns", "data.label_column", "data.id_column", "data.encoder",
    "training.workers", "training.seed", "training.device", "training.align_to", "output.out", "output.register_as",
    "output.tracking_uri",
    # of a search
    "space", "n_clusters", "trials", "concurrent", "time_budget", "seed", "align_to", "out", "register_as",
    "tracking_uri",
    # of a server
    "model", "host", "port", "token_file",
}  # fmt: skip
"""Settings that --help shows; --help-all shows the rest."""


def overview() -> str:
    """The commands, each with its line and its example."""
    lines = ["raydc: deep clustering on Ray. Commands:", ""]
    for name, (what, example) in COMMANDS.items():
        lines += [f"  {name:10} {what}", f"             {example}"]
    lines += [
        "",
        "raydc COMMAND --help shows the settings that matter, raydc COMMAND --help-all the rest; a method's own with",
        "--method NAME. Without any files: raydc train --data digits --method kmeans --n-clusters 10 --out a",
    ]
    return "\n".join(lines)
