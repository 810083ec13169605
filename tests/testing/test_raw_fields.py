"""The coil's fields: smooth, of the size of a measured one, and with the coil rather than with the head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from voxcloud.testing.raw_fields import coil_fields, static_field_hz
from voxcloud.testing.raw_geometry import Movement, grid
from voxcloud.testing.raw_head import person_head, template_head
from voxcloud.testing.raw_scan import sample_head
from voxcloud.testing.raw_session import head_at_isocentre

PERCENTILES = (5, 25, 75, 95)


@pytest.fixture(scope="module")
def brain_field() -> npt.NDArray[np.float32]:
    """Transmit field over the brain of the template, 8 mm."""
    tissues = template_head(8.0)
    sampled = sample_head(
        person_head(tissues, 0, "01"),
        coil_fields(0, "01", "1"),
        grid((200.0, 240.0, 200.0), 8.0),
        head_at_isocentre(tissues, Movement()),
    )
    return sampled.transmit[sampled.fractions[:, :2].sum(axis=1) > 0.5]


def test_transmit__is_high_in_the_middle_and_low_at_the_surface() -> None:
    middles, edges, sides = [], [], []
    for number in range(20):
        coils = coil_fields(0, f"{number:02d}", "1")
        middles.append(coils.transmit(np.zeros((1, 3)))[0])
        around = np.array([[68.0, 0, 0], [-68.0, 0, 0], [0, 86.0, 0], [0, -86.0, 0], [0, 0, 74.0]])
        values = coils.transmit(around)
        edges.append(values.mean())
        sides.append(values[0] - values[1])
    assert 1.1 < np.mean(middles) < 1.2
    assert 0.7 < np.mean(edges) < 0.85
    assert 0.01 < np.std(middles) < 0.08
    assert np.mean(sides) > 0.03  # one side is higher


def test_transmit__spreads_over_the_brain_like_a_measured_field(
    brain_field: npt.NDArray[np.float32], shared_data: Callable[[str], Path]
) -> None:
    folder = shared_data("b1")
    afi = np.asarray(nib.load(folder / "2mm_AfiFa_reg_bet.nii.gz").dataobj)
    inside = ndimage.binary_erosion(ndimage.binary_fill_holes(afi > 0), iterations=3)
    measured = np.percentile(afi[inside] / np.median(afi[inside]), PERCENTILES)
    simulated = np.percentile(brain_field / np.median(brain_field), PERCENTILES)
    # That person's field was wider than most at 3 T: ours is between half as wide and as wide.
    share = (simulated - 1) / (measured - 1)
    assert (share > 0.4).all(), (simulated, measured)
    assert (share < 1.0).all(), (simulated, measured)


def test_transmit__scales_and_is_nearly_the_same_at_the_next_visit() -> None:
    points = np.random.default_rng(0).uniform(-60, 60, (500, 3))
    first, scaled = coil_fields(0, "01", "1"), coil_fields(0, "01", "1", scale=1.1)
    np.testing.assert_allclose(scaled.transmit(points), 1.1 * first.transmit(points), rtol=1e-6)
    visit = coil_fields(0, "01", "2").transmit(points) / first.transmit(points)
    person = coil_fields(0, "02", "1").transmit(points) / first.transmit(points)
    assert 0.001 < visit.std() < 0.03
    assert visit.std() < person.std() < 0.1


def test_fields__are_smooth() -> None:
    line = np.stack([np.linspace(-80, 80, 161), np.zeros(161), np.zeros(161)], axis=1)
    coils = coil_fields(0, "01", "1")
    for values in (coils.transmit(line), coils.receive(line)):
        assert np.abs(np.diff(values)).max() < 0.02  # per mm
        assert np.abs(np.diff(values, n=2)).max() < 0.001
    assert coils.receive(line)[80] < 0.8 * min(coils.receive(line)[[5, -6]])


def test_static_field_hz__is_raised_over_the_sinuses() -> None:
    field = static_field_hz(np.array([[0.0, 58.0, -34.0], [0.0, -20.0, 10.0], [54.0, -24.0, -38.0]]))
    assert field[0] > 120
    assert abs(field[1]) < 25
    assert field[2] > 50
