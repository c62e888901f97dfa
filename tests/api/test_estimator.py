import inspect

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, make_blobs
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from raydc import DataWarning, DeepClustering

SMALL = {
    "method.network.hidden": (16,),
    "method.network.latent": 4,
    "method.denoise.length": 0,
    "method.pretrain.length": "6 epochs",
    "method.cluster.length": "4 epochs",
    "training.precision": "fp32",
}
ESTIMATORS = [
    DeepClustering("kmeans", 4, restarts=2),
    DeepClustering("dec", 4, SMALL),
]  # the checks' y has four classes


def unlike(estimator):
    """Checks of weights that cannot hold, and why."""
    drawn = "starts are drawn among rows by their places"
    expected = {f"check_sample_weight_equivalence_on_{kind}_data": drawn for kind in ("dense", "sparse")}
    refused = {"check_sample_weights_not_overwritten": "dec takes no weights that differ"}
    return expected if estimator.method == "kmeans" else expected | refused


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=unlike)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_clone_keeps_every_setting():
    estimator = DeepClustering("dec", 4, {**SMALL, "method.nu": 2.0})
    assert clone(estimator).get_params() == estimator.get_params()


def test_settings_are_keyword_arguments():
    estimator = DeepClustering("dec", 4, random_state=7, nu=2.0, network__latent=3, data__scaling="standard")
    assert estimator.get_params() == {
        "method": "dec",
        "n_clusters": 4,
        "settings": None,
        "random_state": 7,
        "nu": 2.0,
        "network__latent": 3,
        "data__scaling": "standard",
    }
    estimator.set_params(network__hidden=(8,), denoise__length=0, pretrain__length=1, cluster__length=1, nu=3.0)
    assert clone(estimator).get_params() == estimator.get_params() and "nu=3.0" in repr(estimator)
    config = estimator.fit(np.repeat(np.eye(4), 20, axis=0)).model_.config
    assert (config["nu"], config["network"]["latent"], config["network"]["hidden"]) == (3.0, 3, [8])
    assert estimator.model_.scaling.kind == "standard" and estimator.n_iter_ == len(estimator.history_) == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"nuu": 1}, r"method\.nuu: no such setting; did you mean method\.nu\?"),
        ({"nu": 1.0, "settings": {"method.nu": 2.0}}, r"method\.nu: is given twice"),
        ({"random_state": 1, "training__seed": 2}, r"training\.seed: is given twice"),
        ({"training__workers": 2}, r"training\.workers: DeepClustering works in this process"),
        ({"output__register_as": "x"}, r"output\.register_as: DeepClustering works in this process"),
    ],
)
def test_keywords_that_cannot_be_taken_are_named(given, said):
    with pytest.raises(ValueError, match=said):
        DeepClustering("dec", 2, **given).fit(np.eye(4))


def test_a_parameter_that_the_method_lacks_is_refused_when_set():
    with pytest.raises(ValueError, match=r"Invalid parameter 'restart' for estimator .* did you mean 'restarts'"):
        DeepClustering("kmeans", 2).set_params(restart=2)
    with pytest.raises(ValueError, match="Invalid parameter 'restarts'"):
        DeepClustering("kmeans", 2).set_params(method="dec", restarts=2)


def test_a_grid_search_varies_settings():
    x, _ = make_blobs(60, 3, centers=3, random_state=0)
    grid = {"n_clusters": [2, 3], "data__scaling": ["none", "power"], "restarts": [1, 2]}
    found = GridSearchCV(DeepClustering("kmeans", random_state=0), grid, scoring=clusters_used, cv=2).fit(x)
    assert found.best_params_["n_clusters"] == 3 and len(found.cv_results_["params"]) == 8


def clusters_used(estimator, x, y=None):
    return len(set(estimator.predict(x)))


def test_the_random_state_is_the_seed():
    x = np.random.default_rng(0).normal(size=(80, 5))
    hashes = [
        DeepClustering("kmeans", 4, **seeded).fit(x).model_.weights_hash()
        for seeded in ({}, {"random_state": 0}, {"random_state": 5}, {"training__seed": 5})
    ]
    assert hashes[0] == hashes[1] != hashes[2] == hashes[3]
    states = [np.random.RandomState(1), np.random.RandomState(1)]
    one, other = (DeepClustering("kmeans", 4, random_state=state).fit(x).model_.weights_hash() for state in states)
    assert one == other


def test_centres_lie_where_transform_puts_rows():
    x, _ = make_blobs(90, 4, centers=3, cluster_std=0.3, random_state=0)
    for fitted in (DeepClustering("kmeans", 3).fit(x), DeepClustering("dec", 3, SMALL).fit(x)):
        squared = ((fitted.transform(x)[:, None] - fitted.cluster_centers_[None]) ** 2).sum(2)
        assert (squared.argmin(1) == fitted.labels_).all()
    with pytest.raises(AttributeError, match="imsat has no centroids"):
        DeepClustering("imsat", 3, cluster__length=1, network__hidden=(8,)).fit(x).cluster_centers_  # noqa: B018


def test_features_have_names_and_may_be_a_frame():
    x, _ = make_blobs(60, 3, centers=3, random_state=0)
    fitted = DeepClustering("dec", 3, SMALL).set_output(transform="pandas").fit(x)
    names = [f"deepclustering{i}" for i in range(4)]
    assert list(fitted.get_feature_names_out()) == list(fitted.transform(x).columns) == names


def test_a_notebook_completes_settings():
    offered = inspect.signature(DeepClustering).parameters
    assert {"nu", "network__latent", "cluster__length", "data__scaling", "training__batch_size"} <= offered.keys()
    assert not {"n_clusters__", "training__workers", "data__path", "training__seed"} & offered.keys()


def test_agrees_with_scikit_learn_on_separated_blobs():
    x, _ = make_blobs(300, 5, centers=4, cluster_std=0.3, random_state=0)
    ours = DeepClustering("kmeans", 4).fit(x)
    theirs = KMeans(4, n_init=5, random_state=0).fit(x)
    pairs = set(zip(ours.labels_.tolist(), theirs.labels_.tolist(), strict=True))
    assert len(pairs) == 4
    assert (ours.predict(x) == ours.labels_).all()


def test_probabilities_and_embedding():
    x = load_digits().data[:200]
    fitted = DeepClustering("dec", 5, SMALL).fit(x)
    p = fitted.predict_proba(x)
    assert p.shape == (200, 5) and np.allclose(p.sum(1), 1, atol=1e-5)
    assert fitted.transform(x).shape == (200, 4)
    assert (fitted.predict(x) == fitted.labels_).mean() > 0.99


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="settings: expected a dict"):
        DeepClustering("dec", 2, [1]).fit(np.eye(4))
    with pytest.raises(ValueError, match="n_samples=3 should be >= n_clusters=10"):
        DeepClustering("kmeans", 10).fit(np.eye(3))
    with pytest.raises(ValueError, match=r"method.nuu: no such setting; did you mean method.nu\?"):
        DeepClustering("dec", 2, {"method.nuu": 1}).fit(np.eye(4))
    with pytest.raises(ValueError, match="did you mean dec"):
        DeepClustering("decc", 2).fit(np.eye(4))


@pytest.mark.parametrize(
    ("name", "value"), [("training.workers", 4), ("output.register_as", "digits"), ("data.path", "rows.parquet")]
)
def test_settings_that_would_do_nothing_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name}: DeepClustering works in this process"):
        DeepClustering("kmeans", 2, {name: value}).fit(np.eye(4))
    assert DeepClustering("kmeans", 2, {"training.workers": 0}).fit(np.eye(4)).n_features_in_ == 4


def test_clusters_that_stay_empty_are_warned_of():
    with pytest.warns(DataWarning, match=r"3 of 6 clusters have no rows"):
        DeepClustering("kmeans", 6).fit(np.repeat(np.eye(3), 20, axis=0))


def test_a_weight_of_two_is_the_row_twice():
    x, _ = make_blobs(200, 3, centers=4, cluster_std=0.3, random_state=0)
    weights = np.arange(200) % 3
    unscaled = {"data.scaling": "none"}
    weighed = DeepClustering("kmeans", 4, unscaled).fit(x, sample_weight=weights)
    repeated = DeepClustering("kmeans", 4, unscaled).fit(np.repeat(x, weights, 0))
    theirs = KMeans(4, n_init=5, random_state=0).fit(x, sample_weight=weights)
    ours = [np.sort(each.model_.method.centroids.numpy(), 0) for each in (weighed, repeated)]
    np.testing.assert_allclose(ours[0], ours[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours[0], np.sort(theirs.cluster_centers_, 0), rtol=1e-4, atol=1e-4)


def test_weights_that_are_equal_change_nothing_and_others_need_a_method_that_takes_them():
    x, _ = make_blobs(60, 3, centers=4, random_state=0)
    plain, weighed = DeepClustering("kmeans", 4).fit(x), DeepClustering("kmeans", 4).fit(x, sample_weight=2.5)
    assert plain.model_.weights_hash() == weighed.model_.weights_hash()
    with pytest.raises(ValueError, match="weights: dec counts all rows alike; leave weights out, or take kmeans"):
        DeepClustering("dec", 4, SMALL).fit(x, sample_weight=np.arange(60))
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight`"):
        DeepClustering("kmeans", 4).fit(x, sample_weight=-np.arange(60))


def test_a_method_that_finds_the_number_of_clusters_needs_none():
    settings = {"method.network.hidden": (16,), "method.denoise.length": 1, "method.pretrain.length": 2}
    fitted = DeepClustering("dcc", settings=settings | {"method.cluster.length": 20}).fit(np.repeat(np.eye(4), 15, 0))
    assert np.array_equal(fitted.labels_.reshape(4, 15), np.repeat(fitted.labels_[::15, None], 15, 1)), "copies"
    assert clone(DeepClustering.of(fitted.model_)).n_clusters is None


def test_a_table_of_mixed_columns_is_fitted_and_predicted_as_it_is():
    draw = np.random.default_rng(0)
    kind = draw.integers(3, size=150)
    frame = pd.DataFrame(
        {
            "income": 20_000 + 15_000 * kind + draw.normal(0, 2_000, 150),
            "plan": np.array(["free", "basic", "pro"])[kind],
            "joined": pd.Timestamp("2024-01-01") + pd.to_timedelta(draw.integers(90, size=150), unit="D"),
            "name": [f"person {i}" for i in range(150)],
        }
    )
    with pytest.warns(DataWarning, match=r"categories: plan \(3\)"):
        estimator = DeepClustering("kmeans", 3).fit(frame)
    assert adjusted_rand_score(kind, estimator.labels_) > 0.95
    assert list(estimator.feature_names_in_) == ["income", "plan", "joined"]
    for same in (frame, pa.Table.from_pandas(frame), frame.to_dict("list")):
        np.testing.assert_array_equal(estimator.predict(same), estimator.labels_)
    assert estimator.transform(frame).shape[0] == 150
    with pytest.raises(ValueError, match="lacks 1 of 3 columns, such as plan"):
        estimator.predict(frame.drop(columns="plan"))
    with pytest.warns(DataWarning):
        heavy = DeepClustering("kmeans", 3).fit(frame, sample_weight=1 + kind)
    np.testing.assert_array_equal(heavy.predict(frame), heavy.labels_)
