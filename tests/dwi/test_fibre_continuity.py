"""Wrong frames of b-vectors: every one is caught, on simulated bundles and on a real brain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from voxcloud.dwi.fibre_continuity import FrameCheck, Verdict, check_frame, describe_frame, frames
from voxcloud.dwi.gradients import bids_to_world, bvecs_to_world
from voxcloud.dwi.tensor import TensorFit, fit_tensor
from voxcloud.errors import ImageError

Float64 = npt.NDArray[np.float64]
SHAPE, SIZES = (44, 50, 36), np.array([2.0, 2.0, 2.2])
AXIAL, RADIAL, FREE = 1.7e-3, 0.3e-3, 0.8e-3  # mm2/s
IDENTITY = np.eye(3)


@dataclass(frozen=True)
class Scan:
    """Signals (x, y, z, volume), b-values, b-vectors in the frame of BIDS, affine and brain mask."""

    signals: Float64
    bvals: Float64
    bvecs: Float64
    affine: Float64
    brain: npt.NDArray[np.bool_]

    def fit(self, wrong: Float64 = IDENTITY) -> TensorFit:
        """Fit with a table that is wrong by this matrix."""
        return fit_tensor(self.signals, self.bvals, bvecs_to_world(wrong @ self.bvecs, self.affine))

    def check(self, wrong: Float64 = IDENTITY) -> FrameCheck:
        fit = self.fit(wrong)
        return check_frame(fit.direction, fit.fa, self.affine, self.brain)


def curves() -> list[tuple[Float64, float]]:
    """Return curves (points, 3) in voxels, and radii: arcs from side to side, belts, oblique tracts and fans."""
    t = np.linspace(0, 1, 400)[:, None]
    angle = np.pi * t
    found = []
    for y in np.linspace(14, 34, 6):
        arc = np.hstack([21.5 - 14 * np.cos(angle), np.full_like(t, y), 14 + 13 * np.sin(angle)])
        found.append((arc, 2.5))
    for side in (-1, 1):
        belt = np.hstack([21.5 + side * (4 + 2 * t), 24.5 - 19 * np.cos(angle), 15 + 16 * np.sin(angle)])
        found.append((belt, 2.2))
        slanted = np.hstack([21.5 + side * (6 + 11 * t), 40 - 26 * t, 5 + 9 * t + 3 * np.sin(angle)])
        found.append((slanted, 2.4))
        for spread in np.linspace(-1, 1, 7):
            ray = np.hstack([21.5 + side * (4 + 12 * t**1.5), 24 + 14 * spread * t**1.5, 1 + 31 * t])
            found.append((ray, 1.9))
    return found


def bundles() -> tuple[Float64, npt.NDArray[np.bool_]]:
    """Return tensors (x, y, z, 3, 3) along voxel axes, of bundles in isotropic tissue, and the brain.

    Borders are partial volumes a voxel wide.
    """
    grid = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in SHAPE), indexing="ij"), axis=-1)
    middle = (np.array(SHAPE) - 1) / 2
    brain = np.sum(((grid - middle) / (middle + 0.5)) ** 2, axis=-1) < 1
    direction, share = np.zeros(grid.shape), np.zeros(SHAPE)
    for points, radius in curves():
        tangents = np.gradient(points, axis=0) * SIZES
        tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
        distance, nearest = KDTree(points).query(grid, distance_upper_bound=radius + 1)
        part = np.clip(radius + 0.5 - distance, 0, 1) * brain
        stronger = part > share
        share[stronger], direction[stronger] = part[stronger], tangents[nearest[stronger]]
    pure = RADIAL * IDENTITY + (AXIAL - RADIAL) * direction[..., :, None] * direction[..., None, :]
    return share[..., None, None] * pure + (1 - share)[..., None, None] * FREE * IDENTITY, brain


def simulate(axes: Float64, *, noise: float = 0.05, directions: int = 30) -> Scan:
    """Scan the bundles with Rician noise; ``axes`` are the voxel axes' directions in RAS+, as columns."""
    tensor, brain = bundles()
    rng = np.random.default_rng(8)
    g = rng.normal(size=(3, directions + 3))
    g /= np.linalg.norm(g, axis=0)
    g[:, :3] = 0
    b = np.repeat([0.0, 1000.0], [3, directions])
    signal = brain[..., None] * np.exp(-b * np.einsum("iv,xyzij,jv->xyzv", g, tensor, g, optimize=True))
    noisy = np.hypot(signal + noise * rng.standard_normal(signal.shape), noise * rng.standard_normal(signal.shape))
    affine = np.eye(4)
    affine[:3, :3] = axes * SIZES
    return Scan(noisy, b, g * [[-1] if np.linalg.det(axes) > 0 else [1], [1], [1]], affine, brain)


@pytest.fixture(scope="module")
def straight() -> Scan:
    return simulate(IDENTITY)


@pytest.fixture(scope="module")
def oblique() -> Scan:
    tilt = Rotation.from_euler("xyz", [12, -18, 7], degrees=True).as_matrix()
    return simulate(tilt @ np.diag([-1.0, 1.0, 1.0]), noise=0.08, directions=15)


def same_up_to_sign(one: Float64, other: Float64) -> bool:
    return np.allclose(one, other) or np.allclose(one, -other)


def test_frames__are_half_of_the_48_and_the_others_are_their_negatives() -> None:
    found = frames()
    everything = np.concatenate([found, -found])
    assert np.array_equal(found[0], IDENTITY)
    assert len(np.unique(everything.reshape(48, 9), axis=0)) == 48
    assert np.allclose(everything @ everything.transpose(0, 2, 1), IDENTITY)


def test_fit_tensor__turns_with_the_table(straight: Scan) -> None:
    # What check_frame rests on: a table turned by P fits P D P', so one fit serves all candidates.
    part = Scan(straight.signals[10:20, 10:20, 10:20], straight.bvals, straight.bvecs, straight.affine, straight.brain)
    turn = Rotation.from_euler("xyz", [50, 20, -70], degrees=True).as_matrix()
    given = part.fit()
    for wrong in (turn, -turn, frames()[5], -frames()[14]):
        fit = part.fit(wrong)
        # The table is turned in the frame of BIDS, the tensors are in RAS+.
        p = bids_to_world(part.affine) @ wrong @ bids_to_world(part.affine).T
        assert np.allclose(full(fit), p @ full(given) @ p.T, atol=1e-12)
        assert np.allclose(fit.fa, given.fa, atol=1e-9)


def full(fit: TensorFit) -> Float64:
    xx, yy, zz, xy, xz, yz = fit.tensor
    return np.moveaxis(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]), (0, 1), (-2, -1))


@pytest.mark.parametrize("name", ["straight", "oblique"])
def test_check_frame__catches_every_wrong_frame(name: str, request: pytest.FixtureRequest) -> None:
    scan: Scan = request.getfixturevalue(name)
    right = scan.check()
    assert right.verdict is Verdict.RIGHT
    assert right.ratio_to_given == 1
    assert right.ratio_to_next > 1.05
    assert right.lead > 4
    for wrong in frames()[1:]:
        found = scan.check(wrong)
        assert found.verdict is Verdict.WRONG
        assert same_up_to_sign(found.correction @ wrong, IDENTITY)
        assert found.ratio_to_given >= found.ratio_to_next > 1.05
        assert describe_frame(wrong) in found.message
        assert found.lead == pytest.approx(right.lead, rel=1e-6)


def test_check_frame__sees_no_difference_between_a_frame_and_its_negative(straight: Scan) -> None:
    for wrong in frames()[[0, 7, 17]]:
        one, other = straight.check(wrong), straight.check(-wrong)
        assert one.verdict is other.verdict
        assert np.allclose(one.continuity, other.continuity, rtol=1e-9)


@pytest.mark.parametrize(
    "name, frame, words",
    [
        ("straight", "RAS+", "x is negated: they look as if they were in RAS+ and not in the BIDS frame"),
        ("straight", "LPS+", "y is negated: they look as if they were in LPS+ (DICOM) and not in the BIDS frame"),
        ("oblique", "RAS+", "x is negated: they look as if they were in RAS+ and not in the BIDS frame"),
        ("oblique", "LPS+", "y is negated: they look as if they were in LPS+ (DICOM) and not in the BIDS frame"),
    ],
)
def test_check_frame__names_the_mistake(name: str, frame: str, words: str, request: pytest.FixtureRequest) -> None:
    scan: Scan = request.getfixturevalue(name)
    wrong = (IDENTITY if frame == "RAS+" else np.diag([-1.0, -1.0, 1.0])) @ bids_to_world(scan.affine)
    found = scan.check(wrong)
    assert found.verdict is Verdict.WRONG
    assert words in found.message
    cure = "turn them by the image's affine" if name == "oblique" else "write the b-vectors' rows as "
    assert cure in found.message


def test_check_frame__gives_rows_that_mend_the_table(straight: Scan) -> None:
    wrong = np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    found = straight.check(wrong)
    assert "x, y and z hold z, x, y and x is negated" in found.message
    assert "rows as y, z, -x." in found.message
    assert straight.check(found.correction @ wrong).verdict is Verdict.RIGHT


def test_check_frame__does_not_judge_fibres_along_an_axis() -> None:
    # Signs change nothing here: these candidates are equivalent, and no image of such fibres could tell them apart.
    fa = np.zeros((40, 40, 40))
    fa[:, 10:16, 12:22] = fa[:, 24:32, 20:24] = 0.7
    direction = np.zeros((3, 40, 40, 40))
    direction[0] = 1.0
    found = check_frame(direction, fa, np.diag([2.0, 2.0, 2.0, 1.0]))
    assert found.verdict is Verdict.UNCLEAR
    assert found.lead == 0
    alike = np.abs(found.candidates[:, 0, 0]) == 1
    assert np.ptp(found.continuity[alike]) < 1e-12
    assert found.continuity[alike].min() > found.continuity[~alike].max()


def test_check_frame__does_not_judge_noise() -> None:
    leads = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        direction = rng.normal(size=(3, 30, 30, 24))
        direction /= np.linalg.norm(direction, axis=0)
        found = check_frame(direction, rng.uniform(0.1, 0.6, direction.shape[1:]), np.diag([2.0, 2.0, 2.0, 1.0]))
        assert found.verdict is Verdict.UNCLEAR
        leads.append(found.lead)
    assert max(leads) < 2


def test_check_frame__says_when_there_is_too_little_to_see() -> None:
    found = check_frame(np.ones((3, 9, 9, 9)), np.full((9, 9, 9), 0.1), np.eye(4), unit="sub-07_ses-1")
    assert found.verdict is Verdict.UNCLEAR
    assert found.message.startswith("sub-07_ses-1: expected at least 200 voxels with FA above 0.2")
    assert np.isnan(found.continuity).all()


def test_check_frame__passes_over_unknown_voxels(straight: Scan) -> None:
    fit = straight.fit()
    direction, fa = fit.direction.copy(), fit.fa.copy()
    direction[:, 20, 20, 15], fa[20, 20, 15], fa[22, 22, 17] = np.nan, np.nan, np.nan
    found = check_frame(direction, fa, straight.affine, straight.brain)
    assert found.verdict is Verdict.RIGHT
    assert np.isfinite(found.continuity).all()


def test_check_frame__refuses_maps_that_do_not_fit() -> None:
    with pytest.raises(ImageError, match="Give maps of one tensor fit"):
        check_frame(np.ones((9, 9, 9, 3)), np.ones((9, 9, 9)), np.eye(4))


def real(find: Callable[[str], Path], name: str) -> Scan:
    image = nibabel.load(find(f"dwi/{name}.nii.gz"))
    b, g = (np.loadtxt(find(f"dwi/{name}.{kind}")) for kind in ("bval", "bvec"))
    signals = np.asarray(image.dataobj, np.float32)
    return Scan(signals, b, g, image.affine, signals[..., 0] > np.percentile(signals[..., 0], 65))


@pytest.mark.parametrize("name", ["DWI_dir80_AP", "DWI_dir80_PA"])
def test_check_frame__finds_a_real_table_right(shared_data: Callable[[str], Path], name: str) -> None:
    found = real(shared_data, name).check()
    assert found.verdict is Verdict.RIGHT
    assert found.lead > 6
    assert found.ratio_to_next > 1.1


@pytest.mark.slow
def test_check_frame__catches_every_wrong_frame_of_a_real_brain(shared_data: Callable[[str], Path]) -> None:
    scan = real(shared_data, "DWI_dir80_AP")
    for wrong in [*frames()[1:], *-frames()[1:]]:
        found = scan.check(wrong)
        assert found.verdict is Verdict.WRONG
        assert same_up_to_sign(found.correction @ wrong, IDENTITY)
        assert found.ratio_to_given > 1.1


def test_check_frame__is_not_sure_of_a_small_crop(shared_data: Callable[[str], Path]) -> None:
    image = nibabel.load(shared_data("dwi/small_64D.nii"))
    b, g = (np.loadtxt(shared_data(f"dwi/small_64D.{kind}")) for kind in ("bval", "bvec"))
    scan = Scan(np.asarray(image.dataobj, np.float32), b, np.nan_to_num(g.T), image.affine, np.ones((10, 10, 10), bool))
    assert scan.check().verdict is Verdict.UNCLEAR
