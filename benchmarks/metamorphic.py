"""One row, one answer: method x case, the rows whose cluster is not that of training somewhere.

    python -m benchmarks.metamorphic [--methods dec,kmeans] [--two-workers]

Every method is trained for two epochs of each phase on 120 rows, changed as the case says, by the job that the command
line runs. Then its model is asked for their clusters: whole, one at a time, in batches of 7, in another order, beside
other rows, in the other precision, through the model that MLflow serves, by `raydc assign` on a Parquet file, and by
the report. A cell is the number of rows that one of these places puts elsewhere, the most of all; it is 0 unless
something is wrong. With --two-workers the training is that of two processes with gloo instead.
"""

import argparse
import contextlib
import tempfile
import warnings
from pathlib import Path

import torch

from raydc.methods import available, load
from raydc.testing.answers import CASES, differences, rows_of, two_workers


def row_of(name: str, both: bool) -> list[str]:
    """The cells of a method: rows that differ, by case."""
    cells = []
    for change in CASES.values():
        with tempfile.TemporaryDirectory() as folder:
            train = {"train": two_workers} if both else {}
            found = differences(name, change(rows_of(name)), Path(folder), **train)
        cells.append(str(max(found.values())))
    return cells


def main() -> None:
    """Prints the table, a line as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(name for name in available() if not load(name).info.refuses))
    parser.add_argument("--two-workers", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of columns that never change
    torch.set_num_threads(1)
    print(f"| method | {' | '.join(CASES)} |\n|---|{'---|' * len(CASES)}")
    for name in options.methods.split(","):
        print(f"| {name} | {' | '.join(row_of(name, options.two_workers))} |", flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
