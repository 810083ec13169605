"""From echoes and a B1 map to R1, A or PD, MTsat, R2* and their errors, in one call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.errors import MissingMetadataError
from voxcloud.qmri.arrays import Floats, Order, as_float64, check_b1, check_shapes, flatten, result_dtype
from voxcloud.qmri.estatics import BLOCK_VOXELS
from voxcloud.qmri.maker import ORDER, MapMaker
from voxcloud.qmri.presets import Preset
from voxcloud.qmri.protocol import Contrast, ProtocolError
from voxcloud.qmri.quality import motion_degradation
from voxcloud.qmri.receive import calibrate_pd
from voxcloud.qmri.spoiling import SpoilingCoefficients


@dataclass(frozen=True)
class QuantitativeMaps:
    """Maps of one session.

    Attributes
    ----------
    maps : name -> map of the shape of an echo: ``R2starmap`` (1/s); with a T1w contrast ``R1map`` (1/s) and ``A``
        (units of the images) or, calibrated, ``PDmap`` (p.u.); with MTw too ``MTsat`` (p.u.).
    errors : name -> error of each map in its unit, by propagation of the residuals of the fit.
    units : name -> unit.
    record : what was used and what happened, as plain values (JSON).
    """

    maps: Mapping[str, Floats]
    errors: Mapping[str, Floats]
    units: Mapping[str, str]
    record: Mapping[str, Any]


@dataclass(frozen=True)
class _Inputs:
    """Inputs as vectors, by contrast, and where the voxels to compute are."""

    signals: Mapping[str, list[npt.NDArray[Any]]]
    sensitivities: Mapping[str, npt.NDArray[Any]]
    b1: npt.NDArray[Any] | None
    positions: npt.NDArray[np.intp] | None
    shape: tuple[int, ...]
    order: Order
    dtype: np.dtype[np.floating[Any]]

    @property
    def n(self) -> int:
        return int(np.prod(self.shape))

    def blocks(self, size: int) -> Iterator[slice | npt.NDArray[np.intp]]:
        n = self.n if self.positions is None else self.positions.size
        for start in range(0, n, size):
            part = slice(start, min(start + size, n))
            yield part if self.positions is None else self.positions[part]

    def block(self, part: slice | npt.NDArray[np.intp], maker: MapMaker) -> dict[str, Floats]:
        signals = {
            key: np.stack([image[part].astype(self.dtype, copy=False) for image in images])
            for key, images in self.signals.items()
        }
        return maker.block(
            signals,
            None if self.b1 is None else self.b1[part],
            {key: values[part] for key, values in self.sensitivities.items()} or None,
        )


def create_maps(
    pdw: Contrast,
    t1w: Contrast | None = None,
    mtw: Contrast | None = None,
    *,
    b1: npt.ArrayLike | None,
    preset: str | Preset = "hmri-1.0",
    spoiling: SpoilingCoefficients | None = None,
    white_matter_probability: npt.ArrayLike | None = None,
    receive_field: npt.ArrayLike | None = None,
    mask: npt.ArrayLike | None = None,
    block_voxels: int = BLOCK_VOXELS,
) -> QuantitativeMaps:
    """Make quantitative maps from multi-echo FLASH, all images on one grid.

    ESTATICS gives R2* and the signals at TE = 0 (``fit_estatics``); from these R1 and A (``estimate_r1``,
    ``estimate_amplitude``), MTsat (``estimate_mtsat``) and the errors of all; R1 is corrected for imperfect spoiling if
    coefficients are given; limits of the preset are applied; A becomes PD if white matter is known.

    Parameters
    ----------
    pdw, t1w, mtw : echoes and protocol of each contrast. Without T1w there is only R2*, without MTw no MTsat.
    b1 : ratio of actual to nominal flip angle, of the shape of an echo. It has no default: None must be said, makes R1
        and A semi-quantitative and leaves MTsat uncorrected, as the record then says.
    preset : a name (``hmri-1.0``, ``hmri-0.x``) or values of your own: ``replace(PRESETS["hmri-1.0"],
        weighted_passes=2)``.
    spoiling : coefficients of this protocol (``spoiling_coefficients``); None: no correction.
    white_matter_probability : 0 to 1; turns A into PD, and gives the motion degradation index of each contrast.
    receive_field : smooth receive sensitivity; A is divided by it. Not together with sensitivities of the contrasts.
    mask : boolean; voxels outside are not computed, and NaN.
    block_voxels : voxels at a time, which bounds the memory; results do not depend on it.

    Returns
    -------
    Maps and errors, float32 if all echoes are (or 16-bit integers), else float64; computed in float64. NaN where a
    signal, B1 or an echo is NaN, or a signal at TE = 0 or B1 is zero.

    Raises
    ------
    ProtocolError
        If the protocol is impossible, the preset unknown, or the coefficients are for another protocol.
    ImageError
        If shapes differ or B1 is not a ratio.
    MissingMetadataError
        If something asked for needs a map that is missing: spoiling correction B1, MTw T1w.
    MaskError
        If too little white matter is left.

    Warns
    -----
    UserWarning
        If a contrast has fewer than six echoes.

    References
    ----------
    1. Tabelow et al. (2019), doi:10.1016/j.neuroimage.2019.01.029.
    2. Weiskopf et al. (2014), doi:10.3389/fnins.2014.00278.
    3. Helms et al. (2008), doi:10.1002/mrm.21542 and doi:10.1002/mrm.21732.
    """
    contrasts = {key: c for key, c in zip(ORDER, (pdw, t1w, mtw), strict=True) if c is not None}
    _check(contrasts, b1, receive_field, block_voxels)
    maker = MapMaker(
        {key: c.protocol for key, c in contrasts.items()},
        with_b1=b1 is not None,
        preset=preset,
        spoiling=spoiling,
        with_receive=pdw.receive_sensitivity is not None,
        single_contrasts=white_matter_probability is not None,
    )
    inputs = _inputs(contrasts, b1, mask)
    found = {name: np.full(inputs.n, np.nan, inputs.dtype) for name in maker.names}
    for part in inputs.blocks(block_voxels):
        for name, values in inputs.block(part, maker).items():
            found[name][part] = values
    shaped = {name: values.reshape(inputs.shape, order=inputs.order) for name, values in found.items()}
    alone = {key: shaped.pop(f"R2starmap_{key}") for key in contrasts if f"R2starmap_{key}" in shaped}
    maps, errors, factor = _calibrated(shaped, white_matter_probability, receive_field, maker.preset)
    degradation = {}
    if white_matter_probability is not None:
        check_shapes(inputs.shape, [("white matter", white_matter_probability)])
        white = as_float64(white_matter_probability) >= maker.preset.white_matter_probability
        degradation = {key: motion_degradation(values, white) for key, values in alone.items()}
    record = maker.record(with_receive_field=receive_field is not None, pd_factor=factor)
    record["motion_degradation_per_s"] = degradation
    record["voxels"] |= {
        "total": inputs.n,
        "not_finite": {name: maker.computed - int(np.isfinite(values).sum()) for name, values in maps.items()},
    }
    return QuantitativeMaps(maps, errors, record["units"], record)


def _check(
    contrasts: Mapping[str, Contrast],
    b1: npt.ArrayLike | None,
    receive_field: npt.ArrayLike | None,
    block_voxels: int,
) -> None:
    shape = contrasts["PDw"].shape
    for contrast in contrasts.values():
        check_shapes(shape, [(contrast.name, contrast.echoes[0])])
    if b1 is not None:
        check_shapes(shape, [("b1", b1)])
        check_b1(b1)
    with_sensitivity = [c.name for c in contrasts.values() if c.receive_sensitivity is not None]
    if with_sensitivity and (len(with_sensitivity) < len(contrasts) or receive_field is not None):
        raise MissingMetadataError(
            "receive sensitivity: expected one for every contrast and then no receive field, found "
            f"{', '.join(with_sensitivity)}{' and a receive field' if receive_field is not None else ''}. "
            "Give one kind of correction, completely."
        )
    if block_voxels < 1:
        raise ProtocolError(f"block_voxels: expected at least 1, found {block_voxels}.")


def _inputs(contrasts: Mapping[str, Contrast], b1: npt.ArrayLike | None, mask: npt.ArrayLike | None) -> _Inputs:
    shape = contrasts["PDw"].shape
    flat, order = flatten(image for c in contrasts.values() for image in c.echoes)
    rows = iter(flat)
    positions = None
    if mask is not None:
        check_shapes(shape, [("mask", mask)])
        positions = np.flatnonzero(np.asarray(mask, dtype=bool).reshape(-1, order=order))
    return _Inputs(
        {key: [next(rows) for _ in c.echoes] for key, c in contrasts.items()},
        {
            key: np.asarray(c.receive_sensitivity).reshape(-1, order=order)
            for key, c in contrasts.items()
            if c.receive_sensitivity is not None
        },
        None if b1 is None else np.asarray(b1).reshape(-1, order=order),
        positions,
        shape,
        order,
        result_dtype(*flat),
    )


def _calibrated(
    found: Mapping[str, Floats],
    white_matter_probability: npt.ArrayLike | None,
    receive_field: npt.ArrayLike | None,
    preset: Preset,
) -> tuple[dict[str, Floats], dict[str, Floats], float | None]:
    """Split maps from errors, and make PD of A where white matter is known."""
    errors = {name.removesuffix("_error"): values for name, values in found.items() if name.endswith("_error")}
    maps = {name: values for name, values in found.items() if not name.endswith("_error")}
    if "A" not in maps:
        return maps, errors, None
    dtype = maps["A"].dtype
    if receive_field is not None:
        check_shapes(maps["A"].shape, [("receive field", receive_field)])
        for values in (maps, errors):
            with np.errstate(all="ignore"):
                values["A"] = (values["A"] / as_float64(receive_field)).astype(dtype)
    if white_matter_probability is None:
        return maps, errors, None
    pd, factor = calibrate_pd(
        maps.pop("A"),
        white_matter_probability,
        threshold=preset.white_matter_probability,
        white_matter_pd=preset.white_matter_pd,
    )
    maps["PDmap"], errors["PDmap"] = pd, (errors.pop("A") * factor).astype(dtype)
    return maps, errors, factor
