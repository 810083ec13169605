"""Motion and eddy-current correction of simulated diffusion images against their truth, beside other programs.

    python validation/dwi_motion.py [--voxel 3.0] [--seed 4711] [--quick] [--ants-python /path/to/python]

A brain that moves by known amounts, distorted by known fields of eddy currents (``tests/dwi/moving_brain.py``), with
Rician noise and slices that lost their signal, is corrected by voxcloud, and each volume is registered to the first
b = 0 image by greedy (affine, normalised mutual information), by dipy (affine, mutual information), and by ANTs
(antspyx, affine by its defaults, and affine with a mask and the settings it has for series, the best of those tried)
where a Python that has it is named: it is no dependency and runs as a process of its own, one thread. Displacement
errors are means over the brain of the distance between where each point is and where it was found, against the first
b = 0 image. A seed that nobody has used yet gives movements, fields, noise and directions that nothing was tuned on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from voxcloud.dwi.motion import MotionCorrected, correct_motion
from voxcloud.dwi.tensor import fit_tensor
from voxcloud.space.greedy import run_greedy
from voxcloud.space.registration import averaged

SIMULATOR = Path(__file__).parents[1] / "tests" / "dwi" / "moving_brain.py"
PROTOCOLS: dict[str, dict[str, Any]] = {
    "b = 1000, 32 directions": {"shells": {1000.0: 32}, "b0s": 4},
    "b = 2500, 48 directions": {"shells": {2500.0: 48}, "b0s": 5},
    "b = 1000 and 2500, 20 and 36 directions": {"shells": {1000.0: 20, 2500.0: 36}, "b0s": 6},
}
# Volumes that the other programs register: all of them take too long.
COMPARED = 8
WHITE_FA = 0.4
# What a Python with antspyx runs: folder of fixed.nii, 0.nii, ... in, matrices.json out. The transform takes points of
# the fixed image to the moving one, in LPS+ mm, y = A (x - c) + t + c.
ANTS = """
import json, pathlib, sys, time
import ants
import numpy as np
folder = pathlib.Path(sys.argv[1])
fixed, found = ants.image_read(str(folder / "fixed.nii")), []
start = time.process_time()
for n in range(int(sys.argv[2])):
    moving = ants.image_read(str(folder / f"{n}.nii"))
    options = {"mask": ants.image_read(str(folder / "mask.nii"))} if sys.argv[3] == "BOLDAffine" else {}
    result = ants.registration(fixed=fixed, moving=moving, type_of_transform=sys.argv[3], random_seed=1, **options)
    transform = ants.read_transform(result["fwdtransforms"][0])
    p, c = np.array(transform.parameters), np.array(transform.fixed_parameters)
    matrix = np.eye(4)
    matrix[:3, :3] = p[:9].reshape(3, 3)
    matrix[:3, 3] = p[9:] + c - matrix[:3, :3] @ c
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    found.append((flip @ matrix @ flip).tolist())
spent = time.process_time() - start
(folder / "matrices.json").write_text(json.dumps({"matrices": found, "cpu_s": spent}))
"""


def simulator() -> Any:
    """Return the module with the simulator of the tests."""
    spec = importlib.util.spec_from_file_location("moving_brain", SIMULATOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["moving_brain"] = module
    spec.loader.exec_module(module)
    return module


def error_of_matrix(tools: Any, brain: Any, volume: int, matrix: np.ndarray) -> float:
    """Return the mean displacement error in mm over the brain of an affine transform."""
    true = tools.true_displacement(brain, volume)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in brain.brain.shape), indexing="ij")).reshape(3, -1)
    mm = brain.affine[:3, :3] @ grid + brain.affine[:3, 3:]
    found = (matrix[:3, :3] @ mm + matrix[:3, 3:] - mm).reshape(true.shape)
    return float(np.sqrt(((true - found) ** 2).sum(axis=0))[brain.brain].mean())


def greedy_affine(brain: Any, volume: int) -> np.ndarray:
    """Register a volume to the first b = 0 image with greedy, affine, by normalised mutual information."""
    images, affines = {}, {}
    first = int(np.flatnonzero(brain.b < 50)[0])
    for name, array in (("fixed", brain.data[..., first]), ("moving", brain.data[..., volume])):
        images[name], affine = averaged(array, brain.affine, 2.0)
        affines[name] = affine.tolist()
    images["mask"] = brain.mask.astype(np.float32)
    request = {
        "images": list(images),
        "affines": affines | {"mask": brain.affine.tolist()},
        "dof": 12,
        "metric": "NMI",
        "iterations": "100x100x60",
        "jitter": 0.5,
    }
    return np.asarray(run_greedy(request, images)["matrix"], np.float64)


def dipy_affine(brain: Any, volume: int) -> np.ndarray:
    """Register a volume to the first b = 0 image as dipy's motion_correction does: centre of mass up to affine."""
    from dipy.align import affine_registration

    first = int(np.flatnonzero(brain.b < 50)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, matrix = affine_registration(
            brain.data[..., volume],
            brain.data[..., first],
            moving_affine=brain.affine,
            static_affine=brain.affine,
            pipeline=["center_of_mass", "translation", "rigid", "affine"],
        )
    return np.asarray(matrix, np.float64)


def ants_affine(brain: Any, volumes: list[int], python: str, kind: str) -> tuple[list[np.ndarray], float]:
    """Register volumes to the first b = 0 image with antspyx, affine; return matrices and CPU seconds."""
    first = int(np.flatnonzero(brain.b < 50)[0])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        names = {"fixed": first} | {str(n): v for n, v in enumerate(volumes)}
        for name, volume in names.items():
            nib.save(nib.Nifti1Image(brain.data[..., volume], brain.affine), folder / f"{name}.nii")
        nib.save(nib.Nifti1Image(brain.mask.astype(np.float32), brain.affine), folder / "mask.nii")
        subprocess.run(
            [python, "-c", ANTS, str(folder), str(len(volumes)), kind],
            check=True,
            env={"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1", "TMPDIR": temporary},
        )
        told = json.loads((folder / "matrices.json").read_text())
    return [np.array(matrix) for matrix in told["matrices"]], float(told["cpu_s"])


def print_ants(tools: Any, brain: Any, volumes: list[int], python: str) -> None:
    """Print the lines of ANTs."""
    for kind, words in (("Affine", "affine"), ("BOLDAffine", "affine for series, in a mask")):
        matrices, spent = ants_affine(brain, volumes, python, kind)
        errors = [error_of_matrix(tools, brain, v, matrix) for v, matrix in zip(volumes, matrices, strict=True)]
        print(
            f"| | ANTs {words} ({len(errors)} volumes) | {np.mean(errors):.3f} | {np.max(errors):.3f} | | "
            f"{spent / len(errors):.1f} |",
            flush=True,
        )


def angles_deg(found: MotionCorrected, brain: Any) -> np.ndarray:
    """Return by how many degrees turned b-vectors are off, (v,)."""
    return np.degrees(np.arccos(np.clip((found.bvecs * brain.turned).sum(axis=0), -1, 1)))


def fa_bias(found: MotionCorrected, brain: Any) -> tuple[float, float, float]:
    """Return median FA differences in white matter of lost slices: corrected, not replaced, and slices beside them.

    Each against a fit to what a head at rest would have given without noise.
    """
    unreplaced = correct_motion(
        brain.data,
        brain.affine,
        brain.b,
        brain.g,
        brain.acquisitions,
        brain.mask,
        settings=_settings(replace_outliers=False),
    )
    inside = brain.brain & found.covered
    signals = {"true": brain.clean, "replaced": found.data, "left": unreplaced.data}
    vectors = {"true": brain.turned, "replaced": found.bvecs, "left": unreplaced.bvecs}
    fa = {k: fit_tensor(np.where(inside[..., None], s, np.nan), brain.b, vectors[k]).fa for k, s in signals.items()}
    white = inside & (np.nan_to_num(fa["true"]) > WHITE_FA)
    lost = np.flatnonzero(brain.dropped.any(axis=0))
    here, beside = np.zeros_like(white), white.copy()
    here[:, :, lost] = white[:, :, lost]
    beside[:, :, lost] = False
    return (
        float(np.median((fa["replaced"] - fa["true"])[here])),
        float(np.median((fa["left"] - fa["true"])[here])),
        float(np.median((fa["replaced"] - fa["true"])[beside])),
    )


def _settings(**changes: Any) -> Any:
    from voxcloud.dwi.motion import MotionSettings

    return MotionSettings(**changes)


def table(tools: Any, name: str, seed: int, voxel_mm: float, quick: bool, ants: str | None) -> None:
    """Print the lines of one protocol."""
    brain = tools.simulate(voxel_mm=voxel_mm, seed=seed, **PROTOCOLS[name])
    start = time.process_time()
    found = correct_motion(brain.data, brain.affine, brain.b, brain.g, brain.acquisitions, brain.mask)
    cpu = (time.process_time() - start) / brain.b.size
    before, after = tools.errors_mm(brain, found.movement, found.eddy_hz, found.eddy_centre_mm)
    off = angles_deg(found, brain)
    chosen = {}
    for b in np.unique(brain.b[brain.b > 0]):
        part = np.flatnonzero(brain.b == b)
        chosen[b] = part[:: max(1, len(part) // COMPARED)][:COMPARED]
        print(
            f"| {name}, b = {b:.0f} | before | {before[part].mean():.2f} | {before[part].max():.2f} | | |", flush=True
        )
        print(
            f"| | voxcloud | {after[part].mean():.3f} | {after[part].max():.3f} | {off[part].mean():.3f} "
            f"({off[part].max():.3f}) | {cpu:.1f} |",
            flush=True,
        )
        for program, register in () if quick else (("greedy affine", greedy_affine), ("dipy affine", dipy_affine)):
            start = time.perf_counter() if program.startswith("greedy") else time.process_time()
            errors = [error_of_matrix(tools, brain, int(v), register(brain, int(v))) for v in chosen[b]]
            spent = (time.perf_counter() if program.startswith("greedy") else time.process_time()) - start
            print(
                f"| | {program} ({len(errors)} volumes) | {np.mean(errors):.3f} | {np.max(errors):.3f} | | "
                f"{spent / len(errors):.1f} |",
                flush=True,
            )
        if ants:
            print_ants(tools, brain, [int(v) for v in chosen[b]], ants)
    lost, told = np.argwhere(brain.dropped).tolist(), np.argwhere(found.outliers).tolist()
    print(f"\nlost slices {lost}, found {told}")
    if not quick:
        replaced, left, beside = fa_bias(found, brain)
        print(
            f"median FA error in white matter of lost slices: replaced {replaced:+.4f}, not replaced {left:+.4f}; "
            f"in other slices {beside:+.4f}\n",
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxel", type=float, default=3.0, help="voxel size, mm")
    parser.add_argument("--seed", type=int, default=4711)
    parser.add_argument("--quick", action="store_true", help="without other programs and FA")
    parser.add_argument("--protocol", type=int, choices=range(len(PROTOCOLS)), help="one protocol only")
    parser.add_argument("--ants-python", help="interpreter of an environment with antspyx")
    asked = parser.parse_args()
    here = sys.executable if importlib.util.find_spec("ants") else None
    tools = simulator()
    print("| images | by | mean error, mm | largest volume | b-vectors off, deg (max) | s per volume |")
    print("|---|---|---|---|---|---|")
    for k, name in enumerate(PROTOCOLS):
        if asked.protocol in (None, k):
            table(tools, name, asked.seed + k, asked.voxel, asked.quick, asked.ants_python or here)


if __name__ == "__main__":
    main()
