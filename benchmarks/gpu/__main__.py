"""Do everything that computes on a device and on this machine's CPU, and write down where they differ, and how fast.

    python -m benchmarks.gpu --out DIR [--device cuda] [--wheels FOLDER] [--budget 1380] [--only methods,kmeans]

Needs torch, and neither Ray, Optuna nor MLflow. What else is missing is installed below --out from a folder of wheels,
without a network. Each row is written to DIR/gpu.json as it ends, and the table to DIR/gpu.md; the same command goes on
where it was stopped, and `--again` repeats the rows that were not the same. Ends with 0 if all rows are done and the
same, 1 if some are not, 75 if there are rows left.
"""

import argparse
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

NEEDED = ("torch", "numpy", "numba", "pandas", "pyarrow", "pydantic", "scipy", "sklearn", "yaml")
"""Packages by the names that Python imports."""
UNAVAILABLE = 69


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, type=Path, help="directory for gpu.json and gpu.md")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="beside the CPU [cuda]")
    parser.add_argument("--wheels", type=Path, help="folder of wheels of what is missing here")
    parser.add_argument("--budget", type=float, default=1380, help="seconds after which no row is begun [1380]")
    parser.add_argument("--only", help="these groups of rows alone, such as methods,kmeans")
    parser.add_argument("--again", action="store_true", help="repeat the rows that were not the same")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if problem := missing(given.out / "packages", given.wheels):
        print(f"benchmarks.gpu: {problem}", file=sys.stderr)
        return UNAVAILABLE
    from benchmarks.gpu import table  # what follows imports torch

    return table.run(given.out, given.device, given.budget, given.only, given.again)


def missing(packages: Path, wheels: Path | None) -> str:
    """What keeps the rows from running, once what wheels there are have been installed into `packages`."""
    if packages.is_dir():
        reach(packages)
    absent = [name for name in NEEDED if find_spec(name) is None]
    if absent and wheels is not None:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        found = sorted(map(str, wheels.glob("*.whl")))
        if not found:
            return f"--wheels {wheels}: expected a folder with .whl files, got none"
        if subprocess.run([*command, "--upgrade", "--target", str(packages), *found], check=False).returncode:
            return f"--wheels {wheels}: pip could not install them; it says why above"
        reach(packages)
        absent = [name for name in NEEDED if find_spec(name) is None]
    return f"{', '.join(absent)} not installed: carry wheels and name their folder by --wheels" if absent else ""


def reach(packages: Path) -> None:
    """Let this process and those that it starts import from a folder."""
    sys.path.insert(0, str(packages))
    paths = [str(packages), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)


if __name__ == "__main__":
    sys.exit(main())
