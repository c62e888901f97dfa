"""How well a linear classifier tells the clusters of rows that it has not seen."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, cross_val_score

FOLDS = 10


def linear_separability(rows: ArrayLike, labels: ArrayLike, seed: int = 0) -> float:
    """Accuracy in [0, 1] of logistic regression (C = 1) on rows [N, D] left out, the mean over FOLDS; max.

    The score by which TURTLE (Gadetsky et al., ICML 2024) chooses among its labellings. 0 where a fold leaves rows of
    one cluster alone, or there are fewer rows than folds. Known failure: it prefers few clusters, and unequal ones.
    """
    x, y = np.asarray(rows), np.asarray(labels)
    if len(x) < FOLDS:
        return 0.0
    folds = KFold(FOLDS, shuffle=True, random_state=seed)
    if any(len(np.unique(y[learned])) < 2 for learned, _ in folds.split(x)):
        return 0.0
    return float(cross_val_score(LogisticRegression(C=1.0, max_iter=1000), x, y, cv=folds).mean())
