"""Maps of one block of voxels after another: what a caller needs who streams a session through memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.errors import ImageError, MissingMetadataError
from voxcloud.qmri.arrays import Floats, result_dtype
from voxcloud.qmri.block import BlockSettings, block_maps, check_mean_echoes
from voxcloud.qmri.presets import Preset, find_preset
from voxcloud.qmri.protocol import SeriesProtocol, check_pair
from voxcloud.qmri.record import describe_maps
from voxcloud.qmri.spoiling import SpoilingCoefficients

ORDER = ("PDw", "T1w", "MTw")
UNITS = {"R1map": "1/s", "R2starmap": "1/s", "MTsat": "p.u.", "A": "arbitrary", "PDmap": "p.u."}


class MapMaker:
    """Makes the maps of a session block by block; ``maps.create_maps`` is one caller.

    ESTATICS gives R2* and the signals at TE = 0; from these R1, A, MTsat and the errors of all; R1 is corrected for
    imperfect spoiling if coefficients are given; limits of the preset are applied. Every voxel is by itself: how a
    session is cut into blocks does not change a bit. One maker belongs to one thread, because it counts.

    Parameters
    ----------
    contrasts : ``PDw``, and ``T1w`` and ``MTw`` if there are. Without T1w there is only R2*, without MTw no MTsat.
    with_b1 : whether each block comes with B1. It has no default: False makes R1 and A semi-quantitative and leaves
        MTsat uncorrected, as the record then says.
    preset : a name (``hmri-1.0``, ``hmri-0.x``) or values of your own.
    spoiling : coefficients of this protocol (``spoiling_coefficients``); None: no correction.
    with_receive : whether each block comes with the receive sensitivity of every contrast.
    single_contrasts : also fit R2* to each contrast alone (``R2starmap_PDw`` and so on, 1/s), for the motion
        degradation index.

    Attributes
    ----------
    names : what ``block`` returns, in order.
    units : map -> unit.
    computed : voxels so far.
    clipped : map -> voxels so far that a limit of the preset changed.
    not_finite : map -> voxels so far that are NaN.

    Raises
    ------
    ProtocolError
        If the preset is unknown, the coefficients are for another protocol, or PDw and T1w are weighted alike.
    MissingMetadataError
        If something asked for needs what is missing: spoiling correction B1, MTw T1w, everything PDw.
    """

    def __init__(
        self,
        contrasts: Mapping[str, SeriesProtocol],
        *,
        with_b1: bool,
        preset: str | Preset = "hmri-1.0",
        spoiling: SpoilingCoefficients | None = None,
        with_receive: bool = False,
        single_contrasts: bool = False,
    ) -> None:
        self.preset = find_preset(preset)
        self.contrasts = {key: contrasts[key] for key in ORDER if key in contrasts}
        self.with_b1, self.spoiling, self.with_receive = with_b1, spoiling, with_receive
        _check(contrasts, with_b1, self.preset, spoiling)
        alone = tuple(self.contrasts) if single_contrasts else ()
        self._settings = BlockSettings.of(self.contrasts, self.preset, spoiling, alone)
        maps = ["R2starmap"]
        maps += ["R1map", "A"] if "T1w" in self.contrasts else []
        maps += ["MTsat"] if "MTw" in self.contrasts else []
        self.units = {name: UNITS[name] for name in maps}
        self.names = (*maps, *(f"{name}_error" for name in maps), *(f"R2starmap_{key}" for key in alone))
        self.computed = 0
        self.clipped = dict.fromkeys(maps, 0)
        self.not_finite = dict.fromkeys(maps, 0)

    def block(
        self,
        signals: Mapping[str, npt.NDArray[Any]],
        b1: npt.ArrayLike | None = None,
        receive: Mapping[str, npt.ArrayLike] | None = None,
    ) -> dict[str, Floats]:
        """Return maps, errors (``<map>_error``) and single-contrast R2* of a block of voxels.

        Parameters
        ----------
        signals : contrast -> (echoes, voxels), echoes as in the protocol's ``echo_time_s``. Signals below the preset's
            floor, zeros too, are raised to it: they were measured. What was not measured (beyond the field of view of
            a contrast after resampling, say) must come as NaN in any one echo: all maps of that voxel are then NaN.
        b1 : (voxels,) ratio of actual to nominal flip angle. Check the whole map once (``arrays.check_b1``); a block
            is too little to tell a ratio from per cent.
        receive : contrast -> (voxels,) receive sensitivity, by which signals are divided after the fit.

        Returns
        -------
        ``names`` -> (voxels,), float32 if all signals are (or 16-bit integers), else float64.

        Raises
        ------
        MissingMetadataError
            If B1 or sensitivities are there and were not announced, or the other way round.
        ImageError
            If an array has another shape.
        """
        self._check_block(signals, b1, receive)
        found, counts = block_maps(signals, receive, b1, self._settings, result_dtype(*signals.values()))
        rows = {name: row for row, name in enumerate(self._settings.rows)}
        self.computed += found.shape[1]
        for name in self.units:
            self.clipped[name] += int(counts[rows[name], 0])
            self.not_finite[name] += int(counts[rows[name], 1])
        return {name: found[rows[name]] for name in self.names}

    def record(self, *, with_receive_field: bool = False, pd_factor: float | None = None) -> dict[str, Any]:
        """Return what was used and what happened so far (JSON): preset, protocol, corrections in words, counts.

        Parameters
        ----------
        with_receive_field : whether the caller divided A by a receive field.
        pd_factor : by what the caller scaled A to PD.
        """
        found = describe_maps(
            self.preset,
            self.contrasts,
            self.with_b1,
            self.spoiling,
            self.with_receive,
            with_receive_field,
            pd_factor,
        )

        def named(values: Mapping[str, Any]) -> dict[str, Any]:
            return {"PDmap" if name == "A" and pd_factor is not None else name: v for name, v in values.items()}

        found["units"] = {name: UNITS[name] for name in named(self.units)}
        found["voxels"] = {
            "computed": self.computed,
            "clipped": dict(self.clipped),
            "not_finite": named(self.not_finite),
        }
        return found

    def _check_block(
        self,
        signals: Mapping[str, npt.NDArray[Any]],
        b1: npt.ArrayLike | None,
        receive: Mapping[str, npt.ArrayLike] | None,
    ) -> None:
        wanted = {
            "signals": (set(self.contrasts), set(signals)),
            "b1": ({"all"} if self.with_b1 else set(), set() if b1 is None else {"all"}),
            "receive": (set(self.contrasts) if self.with_receive else set(), set(receive or ())),
        }
        for what, (expected, found) in wanted.items():
            if expected != found:
                raise MissingMetadataError(
                    f"block: expected {what} of {_names(expected)}, found {_names(found)}. Give what the MapMaker "
                    "was made for."
                )
        n = np.shape(signals["PDw"])[-1] if np.ndim(signals["PDw"]) == 2 else 0
        shapes: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = [
            (f"signals of {key}", (len(series.echo_time_s), n), np.shape(signals[key]))
            for key, series in self.contrasts.items()
        ]
        shapes += [("b1", (n,), np.shape(b1))] if b1 is not None else []
        shapes += [(f"receive sensitivity of {key}", (n,), np.shape(values)) for key, values in (receive or {}).items()]
        for what, shape, found_shape in shapes:
            if shape != found_shape:
                raise ImageError(
                    f"block: expected {what} of shape {shape}, found {found_shape}. "
                    "Signals are (echoes, voxels) with one row per echo time of the protocol."
                )


def _names(found: set[str]) -> str:
    return ", ".join(sorted(found)) or "none"


def _check(
    contrasts: Mapping[str, SeriesProtocol], with_b1: bool, preset: Preset, spoiling: SpoilingCoefficients | None
) -> None:
    if "PDw" not in contrasts or set(contrasts) - set(ORDER):
        raise MissingMetadataError(
            f"contrasts: expected PDw, and T1w and MTw if there are, found {_names(set(contrasts))}. Name them so."
        )
    if "MTw" in contrasts and "T1w" not in contrasts:
        raise MissingMetadataError(
            "MTsat needs a T1w contrast beside MTw and PDw, found none. Add it or leave MTw out."
        )
    if "T1w" in contrasts:
        check_pair(contrasts["PDw"].excitation, contrasts["T1w"].excitation)
    if spoiling is not None:
        if not with_b1 or "T1w" not in contrasts:
            raise MissingMetadataError(
                "spoiling correction: needs R1 and a B1 map, found "
                f"{'no T1w contrast' if with_b1 else 'no B1 map'}. Add it or leave spoiling out."
            )
        spoiling.check(contrasts["PDw"].excitation, contrasts["T1w"].excitation, preset.angles)
    if preset.signal == "mean-echoes":
        check_mean_echoes(contrasts)
