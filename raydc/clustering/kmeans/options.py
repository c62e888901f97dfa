"""What can be asked of k-means: the one place where its options, their defaults and their meaning stand."""

from typing import Literal

from pydantic import Field

from raydc.core.settings import Settings


class KMeansOptions(Settings):
    """How k-means clusters, whichever rows and however many clusters."""

    restarts: int = Field(20, ge=1)
    """k-means++ starts, of which the one with the smallest inertia is kept."""
    iterations: int = Field(300, ge=1)
    """Lloyd iterations at most."""
    tolerance: float = Field(1e-4, ge=0)
    """Stop when the centroids move by less than this, squared, relative to the mean variance of a feature."""
    spherical: bool = False
    """Compare directions (cosine) instead of positions."""
    start: Literal["k-means++", "k-means||"] = "k-means++"
    """k-means++ on a sample of the rows, or k-means|| on all of them, which many clusters need."""
    balanced: float = Field(0.0, ge=0)
    """Strength that holds clusters to equal sizes (Sinkhorn): 5 to 20, for hundreds of iterations; 0: none."""
    batch_groups: int | None = Field(None, ge=1)
    """Row groups of a mini-batch iteration, whose centroids are running means; none: all rows in each iteration."""


USUAL = KMeansOptions()
"""k-means as methods ask for it, unless their source says otherwise."""
