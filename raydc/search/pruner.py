"""Which trials are stopped early."""

import statistics

import optuna

COMPARED_AT = (3, 6)
"""Tenths of its training at which a trial is compared."""
ENOUGH = 4
"""Other trials of its method that a trial is compared with at least: the median of fewer says little."""


class HalvingWithinMethod(optuna.pruners.BasePruner):
    """Asynchronous halving (Li et al., MLSys 2020, arXiv:1810.05934) among trials of the same method.

    A trial ends where its score at a rung is under the median of those that its method's other trials had at the same
    step of theirs. Methods are not compared on the way: one whose clusters form late would lose to one that starts from
    k-means, however well it ends. A trial's method is its user attribute "method".
    """

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or not any(_first_at(trial, rung) == step for rung in COMPARED_AT):
            return False
        own, method = trial.intermediate_values[step], trial.user_attrs["method"]
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        same = [other.intermediate_values for other in others if other.user_attrs.get("method") == method]
        scores = [values[step] for values in same if step in values]
        return len(scores) >= ENOUGH and own < statistics.median(scores)


def _first_at(trial: optuna.trial.FrozenTrial, rung: int) -> int | None:
    """The first step at or past a rung: short trainings leave some out."""
    return min((step for step in trial.intermediate_values if step >= rung), default=None)
