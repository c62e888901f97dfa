"""What every method must do, and what this one promises itself."""

from pathlib import Path

import torch

from raydc import methods
from raydc.testing import check_method

FILE = str(Path(__file__).with_name("my_method.py"))


def test_it_does_what_every_method_must() -> None:
    """Losses, settings, resume, two workers, one answer for a row: the failure tells every rule that is broken."""
    check_method(FILE)


def test_its_default_settings_are_valid() -> None:
    kind = methods.load(FILE)
    assert kind.Config(n_clusters=3).n_clusters == 3


def test_a_row_is_with_its_nearest_centroid() -> None:
    kind = methods.load(FILE)
    method = kind(kind.Config(n_clusters=2), (4,)).eval()
    with torch.no_grad():
        z = method.features(torch.eye(4))
        method.state_dict()["centroids"].copy_(z[:2])
        assert method.label(torch.eye(4))[:2].tolist() == [0, 1]
