"""Which trials are stopped early, on studies made by hand."""

import optuna
import pytest

from raydc.search.pruner import ENOUGH, HalvingWithinMethod


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


def begun_alike(study: optuna.Study, *scores: float, **others: float) -> None:
    """Trials of DEC with these scores at rung 3, and these others all of them."""
    for score in scores:
        begun(study, "dec", r3=score, **others)


def test_the_worse_half_of_a_method_is_stopped(study: optuna.Study) -> None:
    begun_alike(study, 0.5, 0.6, 0.7, 0.8)
    assert not begun(study, "dec", r3=0.65).should_prune()  # the median
    assert begun(study, "dec", r3=0.64).should_prune()
    assert not begun(study, "dec", r3=0.9).should_prune()


def test_a_trial_is_no_part_of_its_own_median(study: optuna.Study) -> None:
    """With it, .64 would be the median of five, and stay."""
    begun_alike(study, 0.5, 0.6, 0.7, 0.8)
    assert begun(study, "dec", r3=0.64).should_prune()


def test_few_trials_stop_nobody(study: optuna.Study) -> None:
    for _ in range(ENOUGH):
        assert not begun(study, "dec", r3=0.5).should_prune()
        assert not begun(study, "kmeans", r3=0.4).should_prune()
    assert begun(study, "dec", r3=0.4).should_prune()


def test_other_methods_do_not_count(study: optuna.Study) -> None:
    for score in (0.8, 0.9, 0.8, 0.9, 0.8):
        begun(study, "kmeans", r3=score)
    assert not begun(study, "imsat", r3=0.1).should_prune()


def test_trials_are_compared_at_three_and_six_tenths_alone(study: optuna.Study) -> None:
    begun_alike(study, 0.5, 0.5, 0.5, 0.5, r4=0.9, r6=0.9, r7=0.9)
    assert not begun(study, "dec", r2=0.0).should_prune()
    assert not begun(study, "dec", r3=0.6, r4=0.0).should_prune()
    assert begun(study, "dec", r3=0.6, r4=0.0, r6=0.5).should_prune()
    assert not begun(study, "dec", r3=0.6, r6=0.95, r7=0.0).should_prune()


def test_short_trainings_are_compared_at_their_next_rung_with_those_that_were_as_far(study: optuna.Study) -> None:
    for _ in range(ENOUGH):
        begun(study, "dec", r5=0.5)
    assert begun(study, "dec", r2=0.9, r5=0.4).should_prune()
    assert not begun(study, "dec", r4=0.3).should_prune()
    assert not begun(study, "dec", r3=0.3).should_prune()
