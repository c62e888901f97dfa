"""raydc sample: a balanced subset of rows, the prototypes of clusters, or near duplicates."""

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from raydc.core import garbage
from raydc.core.nouns import counted

if TYPE_CHECKING:
    from raydc.data import DataSettings

KINDS = {
    "balanced": "as many rows of each cluster, at two levels of the model's tree; fewer where it has no more",
    "prototypes": "the most typical rows of each cluster: nearest to a centre",
    "near-duplicates": "groups of rows that are nearly the same, and one of each to keep",
}


def run(parser: Any, arguments: Sequence[str], data_of: Callable[[argparse.Namespace], "DataSettings"]) -> int:
    """The command, by a parser that knows the options of model, data and Ray; `data_of` reads those of the data."""
    parser.add_argument("--out", required=True, help="directory (or URI) for the sample, and the rows' assignments")
    kinds = parser.add_mutually_exclusive_group(required=True)
    for kind, what in KINDS.items():
        parser.spelled.append(f"--{kind}")
        kinds.add_argument(f"--{kind}", action="store_const", const=kind, dest="kind", help=what)
    parser.add_argument("--n", type=int, help="rows to take; of near duplicates all are told")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is drawn [0]")
    parser.add_argument("--workers", type=int, default=0, help="processes under Ray; 0 works in this one [0]")
    given = parser.parse_args(arguments)
    from raydc.cli.console import close, plain_console
    from raydc.pipelines.sample import SAMPLE, sample

    garbage.collect()
    found = sample(
        given.model,
        data_of(given),
        given.out,
        given.kind,
        given.n,
        seed=given.seed,
        workers=given.workers,
        tracking_uri=given.tracking_uri,
        allow_code=given.allow_code,
    )
    console, clusters = plain_console(), found["clusters"]
    sizes = ", ".join(f"{cluster}: {rows}" for cluster, rows in clusters.items())
    console.print(f"rows by cluster: {sizes or 'none'}", soft_wrap=True, highlight=False)
    said = f"{counted(found['rows'], 'row')} of {found['of']:,} from {counted(len(clusters), 'cluster')}"
    if "groups" in found:
        said += f", in {counted(found['groups'], 'group')} of near duplicates; {found['kept']:,} to keep"
    console.print(said, style="bold", highlight=False)
    close(console, None, f"read {found['out']}/{SAMPLE}: row, id, cluster and how far each can be trusted")
    return 0
