import numpy as np
import pytest
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, make_blobs
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
ESTIMATORS = [DeepClustering("kmeans", 4), DeepClustering("dec", 4, SMALL)]  # the checks' y has four classes


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
