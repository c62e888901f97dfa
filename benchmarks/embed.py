"""How much of an encoder's own speed `raydc embed` keeps: pictures and documents a second, one worker and two.

    python -m benchmarks.embed --out /tmp/raydc-embed

The encoder alone has the raw values in memory: it decodes pictures and makes vectors, in this process. `raydc embed`
reads files, encodes, makes thumbnails or excerpts, and writes Parquet; its time is that of the work, without the start
of Ray, which is told beside it.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from PIL import Image

from raydc.data import DataSettings, open_source
from raydc.data.encoding import ARROW, EncoderCode
from raydc.distributed.ray_cluster import connected
from raydc.pipelines import embed

WORDS = "goal match team player league stock market bank price fund planet star orbit moon galaxy light".split()


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
    texts = [" ".join(rng.choice(WORDS, 60)) for _ in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"body": texts}).to_parquet(path, index=False)
    return path


def alone(data: DataSettings, name: str) -> float:
    """Values a second of the encoder alone."""
    code = EncoderCode.of(name)
    if code.same.takes == "picture":
        files = [path.read_bytes() for path in sorted(Path(data.path).iterdir())]
        values = pa.array(files, ARROW["picture"])
    else:
        values = pa.array(pd.read_parquet(data.path)["body"])
    code.encode(code.taken(values[:8])[0])
    return len(values) / timed(lambda: [code.encode(code.taken(values[i : i + 512])[0]) for i in range(0, len(values), 512)])


def timed(action: Callable[[], object]) -> float:
    """Seconds."""
    before = time.perf_counter()
    action()
    return time.perf_counter() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--documents", type=int, default=60_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    sets = {
        "efficientnet-lite0": DataSettings(path=str(pictures(given.out / "pictures", given.pictures))),
        "wordllama": DataSettings(
            path=str(documents(given.out / "documents.parquet", given.documents)), types=("body=text",)
        ),
    }
    embed.CHUNK_ROWS = 128  # so that two workers end together
    for name, rows in sets.items():
        data = rows.model_copy(update={"encoder": name})
        if name == "wordllama":
            embed.CHUNK_ROWS = 4096
        found: dict[str, float] = {"alone": alone(data, name)}
        total = open_source(data).n_rows
        for workers in (0, 1, 2):
            place = given.out / f"{name}-{workers}-{time.time():.0f}"
            if workers == 0:
                found["in process"] = total / timed(lambda place=place: embed.embed(data, str(place)))
                continue
            with connected(workers):
                first = {"path": data.path, "encoder": name, "types": data.types}
                embed.embed(DataSettings(**first), f"{place}-start", workers)
                found[f"{workers} workers"] = total / timed(lambda place=place: embed.embed(data, str(place), workers))
        print(json.dumps({"encoder": name, "rows": total} | {key: round(value, 1) for key, value in found.items()}))


if __name__ == "__main__":
    main()
