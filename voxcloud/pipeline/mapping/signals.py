"""Signals of all contrasts at the voxels of PDw: read, registered, resampled once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from voxcloud.bids.acquisitions import CONTRASTS, ContrastName, MpmSession, Series
from voxcloud.bids.volumes import Volume, load_alike
from voxcloud.errors import ImageError, MaskError
from voxcloud.pipeline.mapping.moves import Move, find_move
from voxcloud.qmri.estatics import SIGNAL_FLOOR
from voxcloud.space.affine import voxel_to_voxel
from voxcloud.space.bspline import SplineImages, sample_linear
from voxcloud.space.head import head_mask

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

# Voxels that share the image's largest value are cut off by the scanner or the converter; a few do so by chance.
FEWEST_SATURATED = 20
NOTED_SATURATED = 1e-4
MOST_SATURATED = 0.02
MOST_ZERO = 0.5
# Bright voxels at or below the floor of the fit: their decay is bent. Shares that are told, and refused.
NOTED_LOW, MOST_LOW = 1e-3, 0.02
# Where a contrast is not registered yet, its brighter half stands for the head.
BRIGHT_PERCENTILE = 50.0


@dataclass(frozen=True, eq=False)
class SessionSignals:
    """Signals in the head, on the grid of PDw.

    Attributes
    ----------
    shape, affine
        The grid.
    positions
        Flat indices of the head's voxels, x fastest.
    signals
        Contrast to (echoes, voxels); NaN where nothing was measured.
    means
        Contrast to (voxels,): mean of the echoes that were registered, on the grid of PDw.
    unmoved
        The same as the header alone would place it, to see what registration did; PDw is not among them.
    moves
        Contrast to its registration to PDw; PDw is not among them.
    fixed
        Mean of PDw's echoes as a volume, which other images are registered to.
    saturated
        Contrast to the part of the head's voxels that share the largest value of an echo: cut off.
    zero
        Contrast to the part of the head's voxels without a signal above zero; their maps are NaN.
    warnings
        Sentences.
    """

    shape: tuple[int, int, int]
    affine: Float64
    positions: npt.NDArray[np.int64]
    signals: Mapping[ContrastName, Float32]
    means: Mapping[ContrastName, Float32]
    unmoved: Mapping[ContrastName, Float32]
    moves: Mapping[ContrastName, Move]
    fixed: Float32
    saturated: Mapping[ContrastName, float]
    zero: Mapping[ContrastName, float]
    warnings: tuple[str, ...] = ()

    @property
    def voxel_mm(self) -> Float64:
        """Voxel sizes."""
        return np.asarray(np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)))

    @property
    def head(self) -> npt.NDArray[np.bool_]:
        """The head as a mask of the grid."""
        mask = np.zeros(int(np.prod(self.shape)), dtype=bool)
        mask[self.positions] = True
        return mask.reshape(self.shape, order="F")

    def volume(self, values: npt.ArrayLike) -> Float32:
        """Return values of the head's voxels as a volume, NaN outside."""
        found = np.full(int(np.prod(self.shape)), np.nan, dtype=np.float32)
        found[self.positions] = values
        return found.reshape(self.shape, order="F")


@dataclass
class _Gathered:
    signals: dict[ContrastName, Float32] = field(default_factory=dict)
    means: dict[ContrastName, Float32] = field(default_factory=dict)
    unmoved: dict[ContrastName, Float32] = field(default_factory=dict)
    moves: dict[ContrastName, Move] = field(default_factory=dict)
    saturated: dict[ContrastName, float] = field(default_factory=dict)
    zero: dict[ContrastName, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def gather_signals(
    session: MpmSession, registration: Literal["rigid", "none"], signal_floor: float = SIGNAL_FLOOR
) -> SessionSignals:
    """Read a session's echoes and bring T1w and MTw to the voxels of PDw.

    The mean of the echoes up to the shortest train's last is registered; then every echo is resampled once, by cubic
    B-splines, and only where the head is. Bright voxels whose signals the fit would raise to ``signal_floor`` mean that
    images were stored with too small a scale.

    Raises
    ------
    ImageError
        If an image cannot be read or used; the message names session and file.
    RegistrationError
        If a registration failed.
    """
    last = min(series.echoes[-1].echo_time_s for series in session.series.values())
    pdw, unknown = _read_series(session.series["PDw"])
    fixed = _mean(pdw, session.series["PDw"], last)
    affine, shape = pdw[0].affine, fixed.shape
    try:
        head = head_mask(fixed, pdw[0].voxel_mm)
    except MaskError as error:
        raise ImageError(f"{session.who}, PDw ({pdw[0].path}): {error}") from None
    positions = np.flatnonzero(head.reshape(-1, order="F"))
    found = _Gathered()
    signals = np.empty((len(pdw), positions.size), np.float32)
    for row, volume in zip(signals, pdw, strict=True):
        row[:] = volume.values.reshape(-1, order="F")[positions]
    if unknown is not None:
        signals[:, unknown.reshape(-1, order="F")[positions]] = np.nan
    _keep(found, session, session.series["PDw"], signals, last, signal_floor)
    _look_at(found, session, session.series["PDw"], pdw, head)
    del pdw
    for name in CONTRASTS:
        if name == "PDw" or name not in session.series:
            continue
        series = session.series[name]
        volumes, unknown = _read_series(series)
        moving = _mean(volumes, series, last)
        move = find_move(f"{session.who}, {name} to PDw", fixed, affine, moving, volumes[0].affine, head, registration)
        to_series = voxel_to_voxel(affine, move.matrix, volumes[0].affine)
        at_start = voxel_to_voxel(affine, np.eye(4), volumes[0].affine)
        found.unmoved[name] = SplineImages([moving], at_start, shape, outside=np.nan).sample(positions, order="F")[0]
        images = SplineImages([v.values for v in volumes], to_series, shape, outside=np.nan)
        _look_at(found, session, series, volumes, _bright(moving))
        del volumes, moving
        sampled = images.sample(positions, order="F")
        if unknown is not None:
            near = sample_linear(unknown.astype(np.float32), to_series, shape, positions, order="F", outside=1.0)
            sampled[:, near > 0] = np.nan
        _keep(found, session, series, sampled, last, signal_floor)
        found.moves[name] = move
    x, y, z = shape
    return SessionSignals(
        (x, y, z),
        affine,
        positions,
        found.signals,
        found.means,
        found.unmoved,
        found.moves,
        fixed,
        found.saturated,
        found.zero,
        tuple(found.warnings),
    )


def _read_series(series: Series) -> tuple[list[Volume], npt.NDArray[np.bool_] | None]:
    """Read the echoes of a series, see that they lie on one grid, and return where any of them is not finite.

    What is not finite is 0 in the images, because a spline would spread it; None where everything is.
    """
    volumes = load_alike((echo.path, echo.volume) for echo in series.echoes)
    unknown: npt.NDArray[np.bool_] | None = None
    for volume in volumes:
        if volume.values.dtype.kind == "f" and not np.isfinite(volume.values).all():
            bad = ~np.isfinite(volume.values)
            volume.values[bad] = 0.0
            unknown = bad if unknown is None else unknown | bad
    return volumes, unknown


def _mean(volumes: Sequence[Volume], series: Series, last: float) -> Float32:
    """Return the mean of the echoes up to a time."""
    used = [v for v, echo in zip(volumes, series.echoes, strict=True) if echo.echo_time_s <= last * (1 + 1e-9)]
    total = np.zeros(used[0].values.shape, np.float32, order="F")
    for volume in used:
        total += volume.values
    total /= np.float32(len(used))
    return total


def _keep(found: _Gathered, session: MpmSession, series: Series, signals: Float32, last: float, floor: float) -> None:
    """Keep a contrast's signals, NaN where nothing was measured, and their mean; refuse or note too small a scale."""
    nothing = ~(signals[0] > 0)  # zero-filled by the scanner, or beyond the field of view
    signals[:, nothing] = np.nan
    bright = signals[0] > np.nanmedian(signals[0]) if not nothing.all() else nothing
    low = float((signals[:, bright] <= floor).mean()) if bright.any() else 0.0
    if low > NOTED_LOW:
        text = (
            f"{session.who}, {series.contrast}: expected signals of bright voxels above {floor:g}, the floor of the "
            f"fit, found {low:.1%} at or below it and a median of {float(np.nanmedian(signals[0, bright])):.3g} in the "
            "first echo: the images are stored with too small a scale. Multiply all of a session's images by one "
            "number, e.g. 1000."
        )
        if low > MOST_LOW:
            raise ImageError(text)
        found.warnings.append(text)
    n = sum(echo.echo_time_s <= last * (1 + 1e-9) for echo in series.echoes)
    found.signals[series.contrast] = signals
    found.means[series.contrast] = signals[:n].mean(axis=0)
    found.zero[series.contrast] = float(nothing.mean())


def _bright(image: Float32) -> npt.NDArray[np.bool_]:
    """Return the brighter half of the voxels with signal; all where there is none. Background may be exactly zero."""
    known = image[image > 0]
    return image >= np.percentile(known, BRIGHT_PERCENTILE) if known.size else np.ones(image.shape, dtype=bool)


def _look_at(
    found: _Gathered, session: MpmSession, series: Series, volumes: Sequence[Volume], head: npt.NDArray[np.bool_]
) -> None:
    """Refuse or note a series whose signals are cut off or missing."""
    shares = []
    for volume in volumes:
        inside = volume.values[head]
        n = int(np.count_nonzero(inside == inside.max()))
        shares.append(n / inside.size if n >= FEWEST_SATURATED and inside.max() > 0 else 0.0)
    worst = int(np.argmax(shares))
    share = found.saturated[series.contrast] = float(shares[worst])
    empty = float(np.mean([np.count_nonzero(v.values[head] == 0) / np.count_nonzero(head) for v in volumes]))
    if empty > MOST_ZERO:
        raise ImageError(
            f"{session.who}, {series.contrast}: expected signal in the head, found {empty:.0%} of its voxels zero "
            f"({volumes[0].path}). Look at the images."
        )
    if share > NOTED_SATURATED:
        text = (
            f"{session.who}, {series.contrast}: expected signals below the largest that can be stored, found "
            f"{share:.2%} of the head's voxels at {float(volumes[worst].values.max()):g} ({volumes[worst].path}): they "
            "are cut off. Convert the series again with scaling, or acquire it with less gain."
        )
        if share > MOST_SATURATED:
            raise ImageError(text)
        found.warnings.append(text)
