"""Improved Deep Embedded Clustering. Guo, Gao, Liu & Yin, IJCAI 2017.

DEC that keeps the decoder: L = L_r + gamma L_c with gamma = 0.1, L_r averaged over features and rows, L_c over rows (as
the authors' code reduces them) and Adam .001 (as theirs on MNIST). Eq. 11 scales the loss by 1 / (1 + gamma), which
Adam does not see.
"""

from dataclasses import replace
from typing import Any, ClassVar

from raydc.core.schedule import Joint, Optimizer
from raydc.methods.base import AutoencoderMethod, MethodInfo
from raydc.methods.dec import DEC


class IDEC(DEC):
    info: ClassVar[MethodInfo] = replace(
        DEC.info, source="Guo et al. 2017", combination="pretraining, then joint training"
    )

    class Config(DEC.Config):
        cluster: Joint = Joint(length="100 epochs", optimizer=Optimizer(lr=1e-3), alpha=0.1 / 1.1, tolerance=1e-3)

        recipes: ClassVar[dict[str, dict[str, Any]]] = AutoencoderMethod.Config.recipes | {
            name: AutoencoderMethod.Config.recipes[name]
            | {"cluster.length": "20000 steps", "cluster.update_every": "140 steps"}
            for name in ("paper", "keras")
        }
