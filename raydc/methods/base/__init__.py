"""What a method is made of: `Method`, and what methods with an autoencoder, with centroids, or with a teacher share."""

from raydc.methods.base.autoencoder import AutoencoderMethod, BiasRate, copy_pretrained
from raydc.methods.base.centroids import CentroidMethod, FinalKMeansMethod
from raydc.methods.base.distilled import DistilledGraphMethod, DistilledMethod
from raydc.methods.base.method import (
    ROWS,
    FoundInRows,
    Group,
    Method,
    Parts,
    Player,
    StepState,
    UntrainedConfig,
    in_batches,
    require_probabilities,
)
from raydc.methods.index import MethodInfo

__all__ = [
    "ROWS",
    "AutoencoderMethod",
    "BiasRate",
    "CentroidMethod",
    "DistilledGraphMethod",
    "DistilledMethod",
    "FinalKMeansMethod",
    "FoundInRows",
    "Group",
    "Method",
    "MethodInfo",
    "Parts",
    "Player",
    "StepState",
    "UntrainedConfig",
    "copy_pretrained",
    "in_batches",
    "require_probabilities",
]
