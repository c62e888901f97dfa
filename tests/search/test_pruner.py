"""Which trials are stopped early, on studies made by hand."""

import optuna
import pytest

from raydc.search.pruner import HalvingWithinMethod


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(direction="maximize", pruner=HalvingWithinMethod())


def begun(study: optuna.Study, method: str, **scores: float) -> optuna.Trial:
    """A trial with scores by rung, given as r3=.5."""
    trial = study.ask()
    trial.set_user_attr("method", method)
    for rung, score in scores.items():
        trial.report(score, int(rung[1:]))
    return trial


def test_the_worse_half_of_a_method_is_stopped(study: optuna.Study) -> None:
    assert not begun(study, "dec", r3=0.5).should_prune()  # alone
    assert begun(study, "dec", r3=0.4).should_prune()
    assert not begun(study, "dec", r3=0.5).should_prune()  # the median of .5, .4, .5
    assert not begun(study, "dec", r3=0.6).should_prune()


def test_other_methods_do_not_count(study: optuna.Study) -> None:
    for score in (0.8, 0.9):
        begun(study, "kmeans", r3=score)
    assert not begun(study, "imsat", r3=0.1).should_prune()


def test_trials_are_compared_at_three_and_six_tenths_alone(study: optuna.Study) -> None:
    begun(study, "dec", r3=0.5, r4=0.9, r6=0.9, r7=0.9)
    assert not begun(study, "dec", r2=0.0).should_prune()
    assert not begun(study, "dec", r3=0.6, r4=0.0).should_prune()
    assert begun(study, "dec", r3=0.6, r4=0.0, r6=0.5).should_prune()
    assert not begun(study, "dec", r3=0.6, r6=0.95, r7=0.0).should_prune()


def test_short_trainings_are_compared_at_their_next_rung(study: optuna.Study) -> None:
    begun(study, "dec", r5=0.5)
    assert begun(study, "dec", r2=0.9, r5=0.4).should_prune()
    assert begun(study, "dec", r4=0.3).should_prune()
