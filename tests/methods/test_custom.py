"""Composed methods: those of the literature come out as their own files do, and the others keep the contract."""

from typing import Any

import pytest
import torch
from torch import Tensor

from raydc.clustering.collective import CollectiveClusters
from raydc.core.settings import SettingsError, build, fields, unflatten
from raydc.data import Shard
from raydc.methods import load
from raydc.methods.composed import Composed
from raydc.methods.custom import Custom
from raydc.testing import check_method
from raydc.testing.cases import K, blobs
from raydc.training.loop import Loop

SMALL = {
    "n_clusters": K,
    "network.hidden": (32, 16),
    "network.latent": 6,
    "pretrain.length": "3 epochs",
}


def trained(name: str, settings: dict[str, Any], x: Tensor) -> tuple[Loop, Tensor]:
    """A method after a short training on these rows, and its labels."""
    kind = load(name)
    shard = Shard.of(x)
    torch.manual_seed(0)
    known = {path for path, _ in fields(kind.Config)}
    given = {path: value for path, value in (SMALL | settings).items() if path in known}
    method = kind(build(kind.Config, unflatten(given), at="method"), tuple(x.shape[1:]))
    loop = Loop(method, shard, CollectiveClusters(shard, 0), 50)
    for _ in loop:
        pass
    return loop, loop.finish()


@pytest.mark.parametrize(
    ("name", "recipe"),
    [(name, name) for name in ("ae_kmeans", "neural_clustering", "dec", "dcn", "den", "imsat")] + [("idec", "default")],
)
def test_a_published_method_is_its_recipe_to_the_last_bit(name: str, recipe: str) -> None:
    short = {} if name in ("ae_kmeans", "neural_clustering") else {"cluster.length": "21 epochs"}
    short |= {"pretrain.length": "0 epochs"} if name == "imsat" else {}
    x, _ = blobs(load(name), 200)
    (own, labels), (composed, same) = trained(name, short, x), trained("custom", short | {"recipe": recipe}, x)
    assert torch.equal(labels, same) and len(labels.unique()) > 1
    theirs = composed.method.state_dict()
    for key, value in own.method.state_dict().items():
        assert torch.equal(value, theirs[key]), key
    x, _ = blobs(load(name), 60, seed=1)
    for said, other in zip(own.method.decide(x), composed.method.decide(x), strict=True):
        assert torch.equal(said, other)


COMPOSITIONS: dict[str, dict[str, Any]] = {
    "softmax layer, self-augmented, informative": {
        "memberships": "softmax",
        "centroids": "kmeans",
        "hardening.weight": 0.0,
        "self_augmentation.weight": 1.0,
        "information.weight": 1.0,
        "information.balance": 2.0,
    },
    "pairs and balance of Gaussians, augmented, whose centroids descend": {
        "memberships": "gaussian",
        "self_augmentation.weight": 0.5,
        "self_augmentation.change": "augment",
        "augment.noise": 0.1,
        "hardening.weight": 0.0,
        "pairwise.weight": 1.0,
        "balance.weight": 1.0,
        "moments": "cleared",
    },
    "agglomerated, all layers": {
        "features": "layers",
        "centroids": "agglomerative",
        "agglomerative.weight": 1.0,
        "after": "continued",
        "cluster.ramp": 0.5,
    },
    "a code of logits, classified and rebuilt": {
        "memberships": "code",
        "centroids": "none",
        "hardening.weight": 0.0,
        "classification.weight": 1.0,
        "information.weight": 1.0,
    },
    "running centroids, classified, near its neighbours": {
        "memberships": "gaussian",
        "centroids": "running",
        "hardening.weight": 0.0,
        "classification.weight": 1.0,
        "locality.weight": 0.1,
        "sparsity.weight": 0.01,
        "kmeans.weight": 0.1,
    },
}


def composition(name: str, settings: dict[str, Any]) -> type[Composed]:
    """`custom` with other defaults, as a class of one's own would have them."""
    values = build(Custom.Config, unflatten(settings), at="method")
    defaults = {name: getattr(values, name) for name in Custom.Config.model_fields}
    kinds = {name: field.annotation for name, field in Custom.Config.model_fields.items()}
    config = type("Config", (Custom.Config,), {"__annotations__": kinds, **defaults, "__module__": __name__})
    return type(name, (Custom,), {"Config": config, "__module__": __name__})


for number, one in enumerate(COMPOSITIONS.values()):  # two workers have them by importing this module
    globals()[f"Composition{number}"] = composition(f"Composition{number}", one)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(COMPOSITIONS)), ids=[*COMPOSITIONS])
def test_every_composition_keeps_the_contract(number: int) -> None:
    """Recipes are other compositions; what a short training on blobs does not show is unread."""
    check_method(globals()[f"Composition{number}"], leave=["recipes train"], unread=["memberships", "iterations"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hardening.weight": 0}, "expected a clustering loss with a weight above 0"),
        ({"cluster.length": 0}, "expected after=kmeans, and memberships other than softmax and code, where"),
        ({"memberships": "softmax"}, "expected centroids=running, kmeans or agglomerative"),
        ({"memberships": "softmax", "centroids": "kmeans", "after": "kmeans"}, "expected after=none"),
        ({"pairwise.weight": 1, "pairwise.upper": 0.3}, "method.pairwise: expected lower under upper"),
        ({"centroids": "none"}, "expected centroids other than none"),
        ({"recipe": "imsat", "kmeans.weight": 1}, "expected centroids other than none"),
        ({"memberships": "code", "centroids": "kmeans"}, "expected centroids=none where memberships are code"),
        ({"recipe": "imsat", "features": "layers"}, "expected features=code, of a unit for each cluster"),
        ({"recipe": "imsat", "sparsity.weight": 1}, "expected features=code, of a unit for each cluster"),
        ({"recipe": "imsat", "after": "kmeans"}, "expected after=none where memberships are code"),
        ({"recipe": "imsat", "reconstruction.weight": 1}, "expected reconstruction.weight=0"),
        ({"network.family": "classifier"}, "expected memberships=code where network.family is classifier"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        build(Custom.Config, unflatten(settings), at="method")


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"recipe": "dec", "reconstruction.weight": 2}, "method.reconstruction.weight"),
        ({"recipe": "ae_kmeans", "balance.weight": 1}, "method.balance.weight"),
        ({"locality.neighbours": 7}, "method.locality.neighbours"),
        ({"sparsity.weight": 1, "network.latent": 7}, "method.network.latent"),
        ({"memberships": "gaussian", "nu": 2}, "method.nu"),
        ({"first_count": 2}, "method.first_count"),
        ({"recipe": "imsat", "pretrain.length": 5}, "method.pretrain.length"),
        ({"recipe": "imsat", "network.latent": 5}, "method.network.latent"),
        ({"recipe": "imsat", "network.initial": "normal"}, "method.network.initial"),
    ],
)
def test_settings_of_parts_that_do_not_act_are_refused(settings: dict[str, Any], path: str) -> None:
    with pytest.raises(SettingsError, match=f"{path}: .* has no effect"):
        Custom.check_settings(build(Custom.Config, unflatten(settings), at="method"), (16,))
