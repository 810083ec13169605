"""Registration: known movements found in tenths of a voxel, whatever the contrast; the process behind it behaves."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from nilearn import datasets
from scipy import ndimage

from voxcloud.errors import RegistrationError
from voxcloud.space import greedy, registration
from voxcloud.space.affine import rigid_matrix, voxel_to_voxel
from voxcloud.space.bspline import SplineImages
from voxcloud.space.registration import averaged, register_affine, register_rigid


@dataclass(frozen=True, eq=False)
class Pair:
    """Two images of one head, the second after a known movement, with another contrast, coil field and noise."""

    fixed: np.ndarray
    moving: np.ndarray
    affine: np.ndarray
    moving_affine: np.ndarray
    truth: np.ndarray
    brain: np.ndarray

    def error_mm(self, matrix: np.ndarray) -> float:
        """Mean error over the brain."""
        places = np.argwhere(self.brain)[::50]
        world = self.affine @ np.c_[places, np.ones(len(places))].T
        return float(np.sqrt((((matrix - self.truth) @ world)[:3] ** 2).sum(axis=0)).mean())


@functools.cache
def make_pair(shift: tuple[float, ...] = (1.5, -1.0, 0.8), turn: tuple[float, ...] = (1.5, -1.0, 2.0)) -> Pair:
    images = [
        np.asarray(load(resolution=2).get_fdata(dtype=np.float32))
        for load in (datasets.load_mni152_template, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    ]
    t1, gm, wm = images
    affine = np.asarray(datasets.load_mni152_template(resolution=2).affine)
    brain = t1 > 0.2 * t1.max()
    csf = np.clip(brain - gm - wm, 0, 1)
    centre = (affine @ [*((n - 1) / 2 for n in t1.shape), 1.0])[:3]
    truth = rigid_matrix(shift, turn, centre)
    oblique = rigid_matrix((3, 0, -2), (0, 5, 0), centre) @ affine
    x = np.linspace(-1, 1, t1.shape[0])[:, None, None]
    rng = np.random.default_rng(0)
    # In PDw grey matter is a little brighter than white and fluid brightest; in T1w the other way round.
    fixed = (800 * gm + 700 * wm + 950 * csf) * (1 + 0.3 * x)
    other = 400 * gm + 620 * wm + 150 * csf
    # What the moving scan sees at a voxel is the head at the place that moved there.
    back = voxel_to_voxel(oblique, np.linalg.inv(truth), affine)
    seen = SplineImages([other.astype(np.float32)], back, t1.shape).sample()[0].reshape(t1.shape)
    moving = seen * (1 - 0.25 * x)
    noisy = [np.abs(image + rng.normal(0, 12, t1.shape)).astype(np.float32) for image in (fixed, moving)]
    return Pair(noisy[0], noisy[1], affine, oblique, truth, brain)


def head_of(pair: Pair) -> np.ndarray:
    return np.asarray(ndimage.binary_dilation(pair.brain, iterations=4))


def test_register_rigid__finds_a_movement_between_contrasts_within_a_tenth_of_a_voxel() -> None:
    pair = make_pair()
    found = register_rigid(pair.fixed, pair.affine, pair.moving, pair.moving_affine, fixed_mask=head_of(pair))
    assert pair.error_mm(np.eye(4)) > 2.0
    assert pair.error_mm(found.matrix) < 0.15
    np.testing.assert_allclose(found.translation_mm, (1.5, -1.0, 0.8), atol=0.15)
    np.testing.assert_allclose(found.rotation_deg, (1.5, -1.0, 2.0), atol=0.15)
    assert 2.0 < found.displacement_mm < found.displacement_max_mm < 10.0
    assert found.flagged == ""
    assert found.cpu_s > 0
    assert found.program.startswith("picsl-greedy ")


def test_register_rigid__the_same_input_gives_the_same_bits() -> None:
    pair = make_pair()
    first, second = (
        register_rigid(pair.fixed, pair.affine, pair.moving, pair.moving_affine, fixed_mask=head_of(pair))
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.matrix, second.matrix)


@pytest.mark.slow
def test_register_rigid__finds_a_large_movement() -> None:
    pair = make_pair((8.0, -6.0, 10.0), (8.0, -6.0, 7.0))
    found = register_rigid(pair.fixed, pair.affine, pair.moving, pair.moving_affine, fixed_mask=head_of(pair))
    assert pair.error_mm(np.eye(4)) > 12.0
    assert pair.error_mm(found.matrix) < 0.2


def lost_search(pair: Pair) -> Callable[..., dict[str, object]]:
    """A search that leaps away, as greedy's does now and then: 25 mm from where it should end."""
    wrong = rigid_matrix((0.0, -22.0, 6.0), (-2.0, 10.0, 1.0), (0.0, 0.0, 0.0)) @ pair.truth

    def search(*_: object) -> dict[str, object]:
        return {"matrix": wrong.tolist(), "metric": [], "cpu_s": 1.0, "program": "picsl-greedy 0"}

    return search


def test_register_rigid__finds_the_movement_where_the_search_got_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair()
    monkeypatch.setattr(registration, "run_greedy", lost_search(pair))
    found = register_rigid(pair.fixed, pair.affine, pair.moving, pair.moving_affine, fixed_mask=head_of(pair))
    assert pair.error_mm(found.matrix) < 0.15
    assert found.flagged == ""


def test_register_rigid__images_less_alike_than_before_are_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair()
    search = lost_search(pair)
    monkeypatch.setattr(registration, "run_greedy", search)
    monkeypatch.setattr(registration, "align_by_relation", lambda *_: np.array(search()["matrix"]))
    found = register_rigid(pair.fixed, pair.affine, pair.moving, pair.moving_affine, fixed_mask=head_of(pair))
    assert found.displacement_mm < registration.MOST_MM  # not too far to be true
    assert "more alike after registration" in found.flagged


def test_register_rigid__of_an_image_with_itself_is_the_identity() -> None:
    pair = make_pair()
    found = register_rigid(pair.fixed, pair.affine, pair.fixed, pair.affine, fixed_mask=head_of(pair))
    np.testing.assert_allclose(found.matrix, np.eye(4), atol=2e-3)
    assert found.agreement > 0.7


def test_register_rigid__starts_where_it_is_told_to() -> None:
    pair = make_pair()
    found = register_rigid(
        pair.fixed, pair.affine, pair.moving, pair.moving_affine, fixed_mask=head_of(pair), initial=pair.truth
    )
    assert pair.error_mm(found.matrix) < 0.15


def test_register_affine__finds_size_and_place() -> None:
    pair = make_pair()
    scale = np.diag([1.08, 0.95, 1.05, 1.0])
    resized = scale @ pair.moving_affine
    # Only axes along the world's keep a scaled affine free of shear.
    straight = np.diag([*np.sqrt((resized[:3, :3] ** 2).sum(axis=0)), 1.0])
    straight[:3, 3] = pair.affine[:3, 3] * 1.02
    found = register_affine(pair.fixed, pair.affine, pair.fixed, straight @ np.diag([1, 1, 1, 1.0]))
    expected = straight @ np.linalg.inv(pair.affine)
    places = np.argwhere(pair.brain)[::50]
    world = pair.affine @ np.c_[places, np.ones(len(places))].T
    error = np.sqrt((((found.matrix - expected) @ world)[:3] ** 2).sum(axis=0))
    assert error.mean() < 1.0


def test_averaged__keeps_a_linear_image_in_its_place() -> None:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[:3, 3] = (5.0, -3.0, 7.0)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (21, 24, 10)), indexing="ij"), axis=-1)
    image = (grid @ affine[:3, :3].T + affine[:3, 3])[..., 0]
    coarse, coarse_affine = averaged(image, affine, 4.0)
    assert coarse.shape == (5, 6, 5)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in coarse.shape), indexing="ij"), axis=-1)
    np.testing.assert_allclose(coarse, (grid @ coarse_affine[:3, :3].T + coarse_affine[:3, 3])[..., 0], atol=1e-4)


def test_register_rigid__refuses_what_it_cannot_use() -> None:
    pair = make_pair()
    bad = pair.moving.copy()
    bad[0, 0, 0] = np.nan
    with pytest.raises(RegistrationError, match="moving image: expected a finite 3-D image"):
        register_rigid(pair.fixed, pair.affine, bad, pair.affine)
    sheared = pair.affine.copy()
    sheared[0, 1] = 1.0
    with pytest.raises(RegistrationError, match="fixed image: expected axes at right angles"):
        register_rigid(pair.fixed, sheared, pair.moving, pair.affine)
    with pytest.raises(RegistrationError, match="one value everywhere"):
        register_rigid(pair.fixed, pair.affine, np.zeros_like(pair.fixed), pair.affine)


def test_run_greedy__a_failure_says_what_the_program_said() -> None:
    with pytest.raises(RegistrationError, match=r"found exit status 1: KeyError"):
        greedy.run_greedy({"images": []}, {})


def test_run_greedy__a_program_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair()
    monkeypatch.setattr(greedy, "TIMEOUT_S", 0.2)
    started = time.monotonic()
    with pytest.raises(RegistrationError, match=r"expected an end within 0\.2 s"):
        register_rigid(pair.fixed, pair.affine, pair.moving, pair.moving_affine)
    assert time.monotonic() - started < 10


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_greedy_process__ends_with_its_parent(tmp_path: Path) -> None:
    # A child without a request would end by itself: a fifo for a request makes it wait.
    os.mkfifo(tmp_path / "request.json")
    script = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-m', 'voxcloud.space.greedy_process', {str(tmp_path)!r}], "
        "stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(2.0)
    assert Path(f"/proc/{child}").exists()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(100):
        status = Path(f"/proc/{child}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("the child outlived its parent")
    parent.stdout.close()
