"""What is done to diffusion images on the grid that they were measured on: noise and ringing are taken out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.bids.dwi_acquisitions import DwiSession
from voxcloud.dwi.denoise import denoise
from voxcloud.dwi.gibbs import PartialFourierError, unring
from voxcloud.pipeline.diffusion.series import DiffusionImages
from voxcloud.plan.dwi_sessions import FEWEST_TO_DENOISE, denoised

Float32 = npt.NDArray[np.float32]


@dataclass(eq=False)
class Cleaned:
    """What cleaning did.

    Attributes
    ----------
    noise
        (x, y, z) noise level, NaN where it is unknown; None where nothing was denoised.
    removed
        (x, y, z) RMS over volumes of what denoising took out, over the noise level.
    record
        Plain values (JSON).
    warnings
        Sentences.
    """

    noise: Float32 | None = None
    removed: Float32 | None = None
    record: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def clean(images: DiffusionImages, session: DwiSession, head: npt.NDArray[np.bool_], dwi: dict[str, Any]) -> Cleaned:
    """Denoise within the head and take Gibbs ringing out, series by series; ``images.data`` is replaced in place."""
    found = Cleaned()
    found.record["denoising"] = _denoise(images, session, head, found) if dwi["denoise"] == "mp-pca" else "none"
    found.record["unringing"] = _unring(images, session, found) if dwi["unringing"] == "auto" else "none"
    return found


def _denoise(images: DiffusionImages, session: DwiSession, head: npt.NDArray[np.bool_], found: Cleaned) -> str:
    # Noise is that of the receive chain, alike in all series of a session: the largest one tells it.
    largest = max(images.parts, key=lambda part: part.stop - part.start)
    chosen = denoised(session, "mp-pca")
    extent: tuple[int, ...] = ()
    for part, series in zip(images.parts, session.series, strict=True):
        if series not in chosen:
            found.warnings.append(
                f"{session.who}, {series.path.rpartition('/')[2]}: expected at least {FEWEST_TO_DENOISE} volumes to "
                f"tell noise from signal, found {series.n_volumes}: not denoised."
            )
            continue
        result = denoise(images.data[..., part], head)
        images.data[..., part] = np.where(head[..., None], result.data, images.data[..., part])
        if part == largest:
            extent = result.extent
            found.noise = np.asarray(result.noise, np.float32)
            squares = np.einsum("xyzv,xyzv->xyz", result.residuals, result.residuals, dtype=np.float64)
            level = np.where(found.noise > 0, found.noise, np.nan)
            found.removed = np.asarray(np.sqrt(squares / series.n_volumes) / level, np.float32)
    return f"MP-PCA, patches of {' x '.join(map(str, extent))} voxels" if extent else "none"


def _unring(images: DiffusionImages, session: DwiSession, found: Cleaned) -> str:
    done = []
    for part, series in zip(images.parts, session.series, strict=True):
        try:
            images.data[..., part] = unring(
                images.data[..., part],
                slice_axis=series.slice_axis,
                partial_fourier=series.partial_fourier,
                unit=f"{session.who}, {series.path.rpartition('/')[2]}",
            )
        except PartialFourierError as error:
            found.warnings += error.problems
            continue
        done.append(part)
    return "local subvoxel shifts" if done else "none"
