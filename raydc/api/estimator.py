"""The scikit-learn face: in this process, without Ray, without files."""

import difflib
import inspect
import warnings
from collections.abc import Mapping
from numbers import Number
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils import ClassifierTags, check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from raydc import methods
from raydc.clustering.metrics.monitors import collapsed
from raydc.core.settings import SettingsError, fields, unflatten
from raydc.data import ArraySource, DataSettings, DataWarning, Source, is_mixed, is_table, open_frame
from raydc.data.inputs import table_of
from raydc.methods import index
from raydc.training.config import RunConfig, Training
from raydc.training.model import Assigned, ClusteringModel
from raydc.training.worker_job import in_process, prepare

OWN = ("method", "n_clusters", "settings", "random_state")
"""Parameters that are no settings."""
FIXED = {"training.workers": 0, "training.align_to": None, "data.path": "memory", "output.out": "memory"}
"""Settings of an estimator: it works in this process, on the rows it is given, and writes nothing."""


def keyword(path: str) -> str:
    """A dotted setting as a keyword argument: method.network.latent is network__latent, as scikit-learn joins names."""
    return path.removeprefix("method.").replace(".", "__")


def dotted(keyword: str) -> str:
    """The setting of a keyword argument."""
    path = keyword.replace("__", ".")
    return path if path.partition(".")[0] in ("data", "training", "output") else f"method.{path}"


class DeepClustering(ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin, BaseEstimator):
    """A raydc method as a scikit-learn clusterer and transformer.

    Every setting is a keyword argument, with two underscores for a dot, and so a parameter that `get_params` has and
    `GridSearchCV` may vary: DeepClustering("dec", 10, nu=2.0, network__latent=5, data__scaling="unit"). `settings` are
    the same with dots: {"method.nu": 2.0, "data.shape": (28, 28)}. `random_state` seeds weights, batches and k-means;
    None is 0, so that a fit can always be repeated. With `n_clusters` None the method's own default holds: 10, or as
    many as a method such as dcc finds.

    After `fit`: labels_ (int64 [n]), model_ (a `ClusteringModel`), history_ (one entry an epoch), n_iter_ (epochs, at
    least 1), n_features_in_, and cluster_centers_ where the method has centroids.
    """

    def __init__(
        self,
        method: str = "dec",
        n_clusters: int | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        random_state: int | np.random.RandomState | None = None,
        **keywords: Any,
    ) -> None:
        self.method = method
        self.n_clusters = n_clusters
        self.settings = settings
        self.random_state = random_state
        for name, value in keywords.items():
            setattr(self, name, value)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """All parameters: also those settings that were given as keyword arguments."""
        given = {name: value for name, value in vars(self).items() if name not in OWN and not _fitted(name)}
        return super().get_params(deep=False) | given

    def set_params(self, **params: Any) -> Self:
        """Change parameters. ValueError, with the nearest one, for a name that is no setting of the method.

        Where there is no such method, `fit` says so.
        """
        try:
            known = keywords_of(str(params.get("method", self.method)))
        except SettingsError:
            known = [*params]
        for name in params:
            if name not in (*OWN, *known):
                near = difflib.get_close_matches(name, [*OWN, *known], n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {[*OWN, *known]}"
                raise ValueError(f"Invalid parameter {name!r} for estimator {self}: {hint}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    @classmethod
    def of(cls, model: ClusteringModel) -> Self:
        """A fitted estimator around a trained model, such as `registry.load("models:/digits@champion")`."""
        finds = methods.load(model.method_name).finds_clusters()
        estimator = cls(model.method_name, None if finds else model.n_clusters)
        estimator._hold(model)
        estimator.n_features_in_ = model.n_features
        return estimator

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Train on rows X [n, D], of which each counts as much as its sample_weight [n]; y is ignored.

        X may be a table (of pandas, polars or Arrow) with categories, texts and dates, as files have them.

        Raises ValueError where X or a setting cannot be used, and for unequal weights where the method takes none.
        Warns (`raydc.DataWarning`) of what the profile of the rows notes, such as features that never change, and of
        clusters that stay empty.
        """
        config = self._config()
        source = self._source(X, sample_weight, config)
        k = config.method.n_clusters
        if k is not None and source.n_rows < k:
            raise ValueError(f"n_samples={source.n_rows} should be >= n_clusters={k}")
        job = prepare(config, source)
        if job.profile.notes:
            warnings.warn("\n".join(job.profile.notes), DataWarning, stacklevel=2)
        outcome = in_process(job)
        self.labels_ = outcome.labels
        self._hold(outcome.model)
        collapse = collapsed(np.bincount(self.labels_, minlength=self.model_.n_clusters))
        if collapse is not None:
            warnings.warn(collapse, DataWarning, stacklevel=2)
        self.history_ = outcome.history
        self.n_iter_ = max(len(outcome.history), 1)
        return self

    @property
    def cluster_centers_(self) -> NDArray[np.float32]:
        """Centroids [K, D] in the embedding that `transform` gives; AttributeError where the method has none."""
        check_is_fitted(self)
        centroids = getattr(self.model_.method, "centroids", None)
        if centroids is None:
            raise AttributeError(f"{self.model_.method_name} has no centroids, so there are no cluster_centers_")
        return centroids.detach().cpu().numpy()

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
        dtype = checked.dtype if getattr(checked, "dtype", None) in (np.float32, np.float64) else np.float32
        return self.model_.transform(checked).astype(dtype)

    def _hold(self, model: ClusteringModel) -> None:
        self.model_ = model
        self._n_features_out = model.transform(np.zeros((1, model.n_features), np.float32)).shape[1]

    def _source(self, X: Any, sample_weight: Any, config: RunConfig) -> Source:
        """The rows to be trained on, remembering what they look like."""
        if not is_mixed(X):
            X = validate_data(
                self, X, dtype=[np.float64, np.float32, np.uint8], accept_sparse="csr", ensure_min_samples=2
            )
            weights = None if sample_weight is None else _unequal(sample_weight, X.shape[0])
            return ArraySource(X, weights=weights, settings=config.data)
        weights = None if sample_weight is None else _unequal(sample_weight, len(table_of(X)))
        source = open_frame(X, config.data, weights)
        self.feature_names_in_, self.n_features_in_ = np.array(source.columns, object), len(source.columns)
        return source

    def _checked(self, X: Any) -> Any:
        check_is_fitted(self)
        if self.model_.columns and is_table(X):
            return X  # the model takes its columns by name, and says what is wrong with them
        return validate_data(self, X, dtype=[np.float64, np.float32, np.uint8], accept_sparse="csr", reset=False)

    def _config(self) -> RunConfig:
        if not isinstance(self.settings, Mapping | None):
            raise SettingsError(f"settings: expected a dict of dotted settings, got {self.settings!r}")
        own: dict[str, Any] = {"method.name": self.method}
        if self.n_clusters is not None:
            own["method.n_clusters"] = self.n_clusters
        if self.random_state is not None:
            own["training.seed"] = _seed(self.random_state)
        keywords = {dotted(name): value for name, value in self.get_params().items() if name not in OWN}
        given = dict(self.settings or {})
        for one, other in ((own, given), (own, keywords), (keywords, given)):
            for name in one.keys() & other.keys():
                raise SettingsError(
                    f"{name}: is given twice; give it as one argument of DeepClustering, not in settings"
                )
        for name, value in (given | keywords).items():
            if (name in FIXED or name.startswith("output.")) and value != FIXED.get(name):
                raise SettingsError(
                    f"{name}: DeepClustering works in this process, on the rows it is given, and writes nothing; use "
                    "raydc train"
                )
        return RunConfig.of(unflatten(given | keywords | own | FIXED))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.classifier_tags = ClassifierTags()  # scikit-learn's checks read them of whatever has predict_proba
        return tags


def keywords_of(method: str) -> list[str]:
    """Keyword arguments of an estimator of this method. SettingsError if there is none of that name."""
    return [keyword(path) for path in (*methods.describe(method).settings, *_paths_of_rows()) if path not in REST]


def _paths_of_rows() -> list[str]:
    """Settings of rows and training that an estimator has."""
    paths = [path for cls, at in ((DataSettings, "data"), (Training, "training")) for path, _ in fields(cls, at)]
    return [path for path in paths if path not in FIXED]


REST = ("method.n_clusters", "training.seed")
"""Settings that have parameters of other names."""


def _signature() -> inspect.Signature:
    """That of the estimator with a keyword for each setting of each method of raydc, for completion in notebooks."""
    *first, keywords = inspect.signature(DeepClustering.__init__).parameters.values()
    paths = dict.fromkeys(path for entry in index.read().values() for path in entry.settings)
    names = [keyword(path) for path in (*paths, *_paths_of_rows()) if path not in REST]
    offered = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names]
    return inspect.Signature([*first[1:], *offered, keywords])


DeepClustering.__signature__ = _signature()


def _fitted(name: str) -> bool:
    """Whether an attribute is made by `fit`, or is scikit-learn's."""
    return name.startswith("_") or (name.endswith("_") and not name.endswith("__"))


def _seed(random_state: int | np.random.RandomState) -> int:
    if isinstance(random_state, (int, np.integer)):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


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
