"""Discriminatively Boosted Clustering. Li, Qiao & Zhang, Pattern Recognition 2018, arXiv:1703.07980.

DEC with a convolutional autoencoder trained end to end and a boosted target r proportional to s^alpha, alpha > 1.
The paper's normaliser, its alpha for each data set and its network could not be verified: here alpha is `power` = 2,
divided by the clusters' frequencies, which is DEC's target, and the network that of Aljalbout et al., with its code.
"""

from dataclasses import replace
from typing import Any, ClassVar

from raydc.data import ScalingKind
from raydc.methods.base import MethodInfo
from raydc.methods.dec import DEC
from raydc.networks import Network


class DBC(DEC):
    info: ClassVar[MethodInfo] = replace(DEC.info, source="Li et al. 2017", architecture="CNN")
    scaling: ClassVar[ScalingKind] = "unit"

    class Config(DEC.Config):
        network: Network = Network(family="conv", latent=120)

        recipes: ClassVar[dict[str, dict[str, Any]]] = {"image": DEC.Config.recipes["image"]}
