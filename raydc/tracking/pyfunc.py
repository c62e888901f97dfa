"""What `mlflow.pyfunc.load_model` runs: the model folder's arrays and JSON, read by `ClusteringModel`, without pickle.

MLflow executes this file beside a copy of the package, so it also works where raydc is not installed.
"""

from typing import Any

import mlflow.models
import mlflow.pyfunc
import pandas as pd

from raydc.training.labels import Asked
from raydc.training.model import TRUST, ClusteringModel


class Clusters(mlflow.pyfunc.PythonModel):
    """Rows, as a DataFrame (columns by name) or an array of any real type, to clusters and their trust."""

    def load_context(self, context: Any) -> None:
        self.model = ClusteringModel.load(context.artifacts["model"])

    # an array of any real type may come too; MLflow checks nothing under this annotation, `ClusteringModel.rows` does
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """cluster (int64), membership, agreement and distance (float32) a row, as `raydc.training.model.TRUST` says.

        `params`: "soft": True gives also the memberships in all clusters, p0, p1, ... by their ids; "outliers": .05
        puts into cluster -1 what lies farther out than 95 % of the training rows; "level": 5 gives five clusters.
        """
        wanted = params or {}
        asked = Asked(level=wanted.get("level") or None, outliers=wanted.get("outliers") or None)
        found = self.model.assign(model_input, asked)
        columns: dict[str, Any] = {"cluster": found.clusters}
        columns |= {name: getattr(found, name) for name in TRUST}
        if wanted.get("soft"):
            clusters = self.model.labels.clusters_at(asked.level)
            columns |= {f"p{cluster}": found.memberships[:, i] for i, cluster in enumerate(clusters)}
        index = model_input.index if isinstance(model_input, pd.DataFrame) else None
        return pd.DataFrame(columns, index=index)


mlflow.models.set_model(Clusters())
