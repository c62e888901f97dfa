import pytest
import torch
from pydantic import ValidationError

from raydc.networks.augment import Augment

IMAGES = torch.rand(64, 2, 9, 12, generator=torch.Generator().manual_seed(0))


def test_nothing_asked_for_changes_nothing() -> None:
    assert Augment()(IMAGES) is IMAGES
    rows = torch.rand(5, 7)
    assert Augment(shift=0.3, rotate=20, zoom=0.2, crop=0.2)(rows) is rows


@pytest.mark.parametrize("setting", ["shift", "rotate", "zoom", "crop", "noise", "dropout"])
def test_a_seed_decides_and_rows_differ(setting: str) -> None:
    augment = Augment(**{setting: 10.0 if setting == "rotate" else 0.2})
    torch.manual_seed(3)
    first = augment(IMAGES[:1].expand(8, -1, -1, -1))
    torch.manual_seed(3)
    assert torch.equal(first, augment(IMAGES[:1].expand(8, -1, -1, -1)))
    assert not torch.equal(first, augment(IMAGES[:1].expand(8, -1, -1, -1)))
    assert first.shape == (8, 2, 9, 12) and not torch.equal(first[0], first[1])


def test_ranges_of_the_maps() -> None:
    many = torch.zeros(4000, 1, 8, 8)
    shift = Augment(shift=0.1).transforms(many)
    assert torch.equal(shift[:, :, :2], torch.eye(2).expand(4000, -1, -1))
    assert 0.19 < shift[:, :, 2].abs().max() <= 0.2  # sides are two long
    zoom = Augment(zoom=0.25).transforms(many)[:, 0, 0]
    assert 1 / 1.25 <= zoom.min() < 0.81 and 1.32 < zoom.max() <= 1 / 0.75 + 1e-6
    angle = torch.rad2deg(torch.asin(Augment(rotate=30).transforms(many)[:, 1, 0]))
    assert 29 < angle.abs().max() <= 30.001
    crop = Augment(crop=0.5).transforms(many)
    size, offset = crop[:, 0, 0], crop[:, :, 2].abs().amax(1)
    assert 0.5 <= size.min() < 0.51 and size.max() <= 1
    assert (size + offset <= 1 + 1e-6).all(), "a crop stays within the image"


def test_a_turn_keeps_pixels_square() -> None:
    maps = Augment(rotate=90).transforms(torch.zeros(50, 1, 5, 9))
    cosine, sine = maps[:, 0, 0], maps[:, 1, 0] * 5 / 9
    torch.testing.assert_close(cosine**2 + sine**2, torch.ones(50))
    torch.testing.assert_close(maps[:, 0, 1], -sine * 5 / 9)


def test_what_comes_in_is_the_border() -> None:
    assert torch.allclose(Augment(shift=0.4, rotate=45, zoom=0.5)(torch.full((3, 1, 6, 6), -1.0)), torch.tensor(-1.0))


def test_noise_and_dropout_have_their_size() -> None:
    torch.manual_seed(0)
    rows = torch.ones(200, 500)
    noisy = Augment(noise=0.3)(rows)
    assert (noisy - 1).std().item() == pytest.approx(0.3, rel=0.02)
    dropped = Augment(dropout=0.25)(rows)
    assert set(dropped.unique().tolist()) == {0.0, 1.0}
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"shift": 1.0}, {"rotate": -1.0}, {"dropout": 1.0}, {"spin": 1.0}):
        with pytest.raises(ValidationError):
            Augment(**wrong)


def test_nearest_interpolation_only_moves_values() -> None:
    torch.manual_seed(0)
    moved = Augment(shift=0.2, rotate=15, zoom=0.1, interpolation="nearest")(IMAGES)
    assert set(moved.flatten().tolist()) <= set(IMAGES.flatten().tolist()) and not torch.equal(moved, IMAGES)
    torch.manual_seed(0)
    blurred = Augment(shift=0.2, rotate=15, zoom=0.1)(IMAGES)
    assert not set(blurred.flatten().tolist()) <= set(IMAGES.flatten().tolist())
