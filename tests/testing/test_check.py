"""check_method on methods of strangers: what is right passes, and what is broken is told in words."""

from typing import ClassVar

import pytest
import torch
from pydantic import Field
from torch import Tensor

from raydc.data import Batch
from raydc.methods.ae_kmeans import AEKMeans
from raydc.methods.base import StepState
from raydc.methods.kmeans import KMeans
from raydc.testing import RULES, check_method

TWO = "two workers are one"


class Mine(KMeans):
    """A method that is right, without a network."""


class Broken(AEKMeans):
    """Breaks several rules at once."""

    class Config(AEKMeans.Config):
        idle_setting: float = Field(0.5, gt=0, le=1)
        """Nothing reads it."""

    quick: ClassVar = AEKMeans.quick | {"no_such_setting": 1}

    def network_loss(self, batch: Batch, state: StepState) -> Tensor:
        return super().network_loss(batch, state) * torch.nan

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        labels, memberships = super().decide(x)
        return labels, 2 * memberships


class Local(AEKMeans):
    """Forgets that there are other workers."""

    def network_loss(self, batch: Batch, state: StepState) -> Tensor:
        return self.reconstruction_error(batch.x, batch.x).mean()


class Forgetful(AEKMeans):
    """Keeps what training needs where no checkpoint sees it."""

    seen = 0

    def network_loss(self, batch: Batch, state: StepState) -> Tensor:
        self.seen += 1
        return super().network_loss(batch, state) * (1 + 1 / self.seen)


def all_but(*asked: str) -> list[str]:
    return [rule for rule in RULES if rule not in asked]


def test_a_method_that_is_right_passes() -> None:
    check_method(Mine, leave=[TWO])


def test_all_that_is_broken_is_told_at_once() -> None:
    asked = ["says what it is", "losses are finite", "settings that are not read are refused"]
    with pytest.raises(AssertionError) as told:
        check_method(Broken, leave=all_but(*asked))
    said = str(told.value)
    assert said.startswith("Broken breaks 3 of 3 rules:")
    assert "`quick` names settings that Config has not: no_such_setting" in said


@pytest.mark.slow
def test_a_loss_that_is_reduced_by_one_worker_alone_is_found() -> None:
    with pytest.raises(AssertionError, match=r"two workers are one: .* the gradient by .*; reduce by batch\.mean"):
        check_method(Local, leave=all_but(TWO))


def test_a_class_of_a_notebook_is_to_be_written_to_a_file(monkeypatch) -> None:
    monkeypatch.setattr("raydc.testing.parallel.is_script", lambda: False)
    monkeypatch.setattr(Mine, "__module__", "__main__")
    with pytest.raises(AssertionError, match=r"two workers are one: .*was made in a notebook.*%%writefile"):
        check_method(Mine, leave=all_but(TWO))


@pytest.mark.slow
def test_a_state_outside_of_the_checkpoint_is_found() -> None:
    with pytest.raises(AssertionError, match="after a resume"):
        check_method(Forgetful, leave=all_but("a resumed run ends as the whole one"))


@pytest.mark.slow
def test_the_whole_contract_of_a_class_of_this_file() -> None:
    check_method(AEKMeans)


def test_what_cannot_be_checked_is_said() -> None:
    with pytest.raises(TypeError, match="expected a class derived from"):
        check_method(int)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there is no rule 'two'"):
        check_method("kmeans", leave=["two"])
