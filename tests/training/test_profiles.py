"""profiles.parquet of a finished run."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from raydc.tracking.registry import load
from tests.support import run_cases


def test_profiles_are_in_the_features_own_units(table_run):
    found, rows = pq.read_table(Path(table_run, "profiles.parquet")).to_pandas(), run_cases.table().to_pandas()
    labels = load(table_run).predict(rows)
    assert len(found) == 3 * 4
    for line in found.itertuples():
        own, rest = (rows.loc[labels == line.cluster, line.feature], rows.loc[labels != line.cluster, line.feature])
        np.testing.assert_allclose([line.mean, line.rest], [own.mean(), rest.mean()], rtol=1e-5)
        assert line.rows == len(own) and line.direction == ("high" if own.mean() > rest.mean() else "low")
    tall = labels[rows["height"].argmax()]  # of the blob at (0, 0, 9, 0)
    named = json.loads(Path(table_run, "summary.json").read_text())["suggested"]
    assert (
        named[str(tall)].startswith("high height")
        and found[found["cluster"] == tall]["name"].iloc[0] == named[str(tall)]
    )


def test_pixels_give_no_names(image_run):
    assert json.loads(Path(image_run, "summary.json").read_text())["suggested"] == {}
    assert pq.read_table(Path(image_run, "profiles.parquet")).num_rows == 3 * 16
