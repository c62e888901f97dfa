"""The scikit-learn face: in this process, without Ray, without files."""

import warnings
from collections.abc import Mapping
from numbers import Number
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin, TransformerMixin
from sklearn.utils import ClassifierTags
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from raydc import methods
from raydc.artifacts.model import Assigned, ClusteringModel
from raydc.data import ArraySource, DataWarning
from raydc.metrics.monitors import collapsed
from raydc.settings import SettingsError, unflatten
from raydc.training.config import RunConfig
from raydc.training.worker_job import in_process, prepare


class DeepClustering(ClusterMixin, TransformerMixin, BaseEstimator):
    """A raydc method as a scikit-learn clusterer and transformer.

    `settings` are dotted, as everywhere: {"method.nu": 2.0, "training.seed": 1, "data.shape": (28, 28)}. After `fit`:
    labels_ (int64 [n]), model_ (a `ClusteringModel`), history_ (one entry an epoch), n_features_in_. With
    `n_clusters` None the method's own default holds: 10, or as many as a method such as dcc finds.
    """

    def __init__(
        self, method: str = "dec", n_clusters: int | None = None, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.method = method
        self.n_clusters = n_clusters
        self.settings = settings

    @classmethod
    def of(cls, model: ClusteringModel) -> Self:
        """A fitted estimator around a trained model, such as `registry.load("models:/digits@champion")`."""
        finds = methods.load(model.method_name).finds_clusters()
        estimator = cls(model.method_name, None if finds else model.n_clusters)
        estimator.model_, estimator.n_features_in_ = model, model.n_features
        return estimator

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Train on rows X [n, D], of which each counts as much as its sample_weight [n]; y is ignored.

        Raises ValueError where X or a setting cannot be used, and for unequal weights where the method takes none.
        Warns (`raydc.DataWarning`) of what the profile of the rows notes, such as features that never change, and of
        clusters that stay empty.
        """
        X = validate_data(self, X, dtype=[np.float64, np.float32, np.uint8], accept_sparse="csr", ensure_min_samples=2)
        config = self._config()
        k = config.method.n_clusters
        if k is not None and X.shape[0] < k:
            raise ValueError(f"n_samples={X.shape[0]} should be >= n_clusters={k}")
        weights = None if sample_weight is None else _unequal(sample_weight, X.shape[0])
        job = prepare(config, ArraySource(X, weights=weights, settings=config.data))
        if job.profile.notes:
            warnings.warn("\n".join(job.profile.notes), DataWarning, stacklevel=2)
        outcome = in_process(job)
        self.labels_ = outcome.labels
        self.model_ = outcome.model
        collapse = collapsed(np.bincount(self.labels_, minlength=self.model_.n_clusters))
        if collapse is not None:
            warnings.warn(collapse, DataWarning, stacklevel=2)
        self.history_ = outcome.history
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Cluster of each row, int64 [n]; NotImplementedError, with the reason, where the method has no answer."""
        checked = self._checked(X)
        return self.model_.predict(checked)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Memberships [n, K], rows summing to 1."""
        checked = self._checked(X)
        return self.model_.memberships(checked)

    def assign(self, X: Any) -> Assigned:
        """Cluster of each row, and how far it can be trusted: membership, agreement of replicas, and distance."""
        return self.model_.assign(self._checked(X))

    def transform(self, X: Any) -> np.ndarray:
        """Embedding [n, D] in which the clusters lie, of X's own precision."""
        checked = self._checked(X)
        dtype = checked.dtype if checked.dtype in (np.float32, np.float64) else np.float32
        return self.model_.transform(checked).astype(dtype)

    def _checked(self, X: Any) -> Any:
        check_is_fitted(self)
        return validate_data(self, X, dtype=[np.float64, np.float32, np.uint8], accept_sparse="csr", reset=False)

    def _config(self) -> RunConfig:
        own: dict[str, Any] = {"method.name": self.method}
        if self.n_clusters is not None:
            own["method.n_clusters"] = self.n_clusters
        if not isinstance(self.settings, Mapping | None):
            raise SettingsError(f"settings: expected a dict of dotted settings, got {self.settings!r}")
        given = dict(self.settings or {})
        for name in own.keys() & given.keys():
            raise SettingsError(f"{name}: give it as an argument of DeepClustering, not in settings")
        fixed = {"training.workers": 0, "data.path": "memory", "output.out": "memory"}
        for name, value in given.items():
            if (name in fixed or name.startswith("output.")) and value != fixed.get(name):
                raise SettingsError(
                    f"{name}: DeepClustering works in this process, on the rows it is given, and writes nothing; use "
                    "raydc train"
                )
        return RunConfig.of(unflatten(given | own | fixed))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.classifier_tags = ClassifierTags()  # scikit-learn's checks read them of whatever has predict_proba
        return tags


def _unequal(sample_weight: Any, rows: int) -> np.ndarray | None:
    """Weights [rows], from one for each row or for all; None where all are the same. ValueError where they are none."""
    given = np.full(rows, sample_weight) if isinstance(sample_weight, Number) else sample_weight
    floats = [np.float64, np.float32]
    weights = check_array(
        given, ensure_2d=False, dtype=floats, ensure_non_negative=True, allow_nd=True, input_name="`sample_weight`"
    )
    if weights.shape != (rows,):
        raise ValueError(f"sample_weight.shape == {weights.shape}, expected {(rows,)}: a weight for each row")
    if not weights.any():
        raise ValueError("sample_weight: expected at least one weight above zero, got none")
    return None if (weights == weights[0]).all() else weights
