"""How much of an encoder's own speed `raydc embed` keeps: pictures and documents a second, one worker and two.

    python -m benchmarks.embed --out /tmp/raydc-embed

The encoder alone decodes pictures and makes vectors, in this process. `raydc embed` reads files, encodes, makes
thumbnails or excerpts, and writes Parquet. Workers are started before their clock; they share out the files that
are made.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from PIL import Image

from raydc.data import DataSettings, open_source
from raydc.data.encoding import ARROW, EncoderCode
from raydc.distributed.ray_cluster import connected
from raydc.pipelines import embed

AT_ONCE = 512
"""Values that the encoder alone is given together."""
WORDS = "goal match team player league stock market bank price fund planet star orbit moon galaxy light"


def pictures(folder: Path, count: int) -> Path:
    """Photograph-like files: smooth colours with noise, 500 x 375, JPEG."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        rng = np.random.default_rng(i)
        small = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8))
        small.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{i:05d}.jpg", quality=90)
    return folder


def documents(path: Path, count: int) -> Path:
    """Documents of 60 words."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS.split(), 60)) for _ in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"body": texts}).to_parquet(path, index=False)
    return path


def alone(data: DataSettings, code: EncoderCode) -> None:
    """Every value of a set encoded, from memory."""
    if code.same.takes == "picture":
        values = pa.array([path.read_bytes() for path in sorted(Path(data.path).iterdir())], ARROW["picture"])
    else:
        values = pa.array(pd.read_parquet(data.path)["body"])
    for start in range(0, len(values), AT_ONCE):
        code.encode(code.taken(values[start : start + AT_ONCE])[0])


def a_second(rows: int, action: Callable[[], object]) -> dict[str, float]:
    """Rows a second, by the clock and by this process's processor time."""
    clock, busy = time.perf_counter(), time.process_time()
    action()
    clock, busy = time.perf_counter() - clock, time.process_time() - busy
    return {"a second": round(rows / clock, 1), "a second of the processor": round(rows / busy, 1)}


def measured(data: DataSettings, name: str, out: Path, workers: list[int]) -> dict[str, Any]:
    """Rows a second of an encoder: alone, in this process, and by workers, whose processor time is theirs."""
    code, data = EncoderCode.of(name), data.model_copy(update={"encoder": name})
    rows = open_source(data).n_rows
    found: dict[str, Any] = {"encoder": name, "rows": rows}
    found["alone"] = a_second(rows, partial(alone, data, code))
    found["in process"] = a_second(rows, partial(embed.embed, data, str(out / f"{name}-0")))
    for number in workers:
        with connected(number):
            some = data.model_copy(update={"on_bad_row": "drop"})
            embed.embed(some, str(out / f"{name}-{number}-start"), number)  # workers import, and load the encoder
            place = str(out / f"{name}-{number}")
            found[f"{number} workers"] = a_second(rows, partial(embed.embed, data, place, number))["a second"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a new directory")
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--documents", type=int, default=60_000)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    given = parser.parse_args()
    torch.set_num_threads(1)
    sets = {
        "efficientnet-lite0": DataSettings(path=str(pictures(given.out / "pictures", given.pictures))),
        "wordllama": DataSettings(
            path=str(documents(given.out / "documents.parquet", given.documents)), types=("body=text",)
        ),
    }
    for name, data in sets.items():
        print(json.dumps(measured(data, name, given.out, given.workers)), flush=True)


if __name__ == "__main__":
    main()
