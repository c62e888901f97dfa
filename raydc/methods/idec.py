"""Improved Deep Embedded Clustering. Guo, Gao, Liu & Yin, IJCAI 2017.

DEC that keeps the decoder: L = L_r + gamma L_c with gamma = 0.1, L_r averaged over features and rows, L_c over rows (as
the authors' code reduces them). Eq. 11 scales that by 1 / (1 + gamma), which Adam does not see.
"""

from dataclasses import replace
from typing import Any, ClassVar

from raydc.methods.base import AutoencoderMethod, MethodInfo
from raydc.methods.dec import DEC
from raydc.settings.schedule import Joint, Optimizer


class IDEC(DEC):
    info: ClassVar[MethodInfo] = replace(
        DEC.info, source="Guo et al. 2017", combination="pretraining, then joint training"
    )

    class Config(DEC.Config):
        cluster: Joint = Joint(length="100 epochs", optimizer=Optimizer(lr=1e-4), alpha=0.1 / 1.1, tolerance=1e-3)

        recipes: ClassVar[dict[str, dict[str, Any]]] = {
            "paper": AutoencoderMethod.Config.recipes["paper"]
            | {"cluster.length": "20000 steps", "cluster.update_every": "140 steps", "cluster.optimizer.lr": 1e-3}
        }
