"""Named sets of defaults for making maps; every one can be overridden with ``dataclasses.replace``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from voxcloud.errors import nearest
from voxcloud.qmri.estatics import SIGNAL_FLOOR
from voxcloud.qmri.mtsat import CONSTANTS, CORRECTIONS, Correction
from voxcloud.qmri.protocol import ProtocolError
from voxcloud.qmri.receive import WHITE_MATTER_PD, WHITE_MATTER_PROBABILITY
from voxcloud.qmri.relaxation import ANGLES, Angles

Signal = Literal["te0", "mean-echoes"]
SIGNALS: tuple[Signal, ...] = ("te0", "mean-echoes")


@dataclass(frozen=True)
class Preset:
    """How maps are made.

    Attributes
    ----------
    name : the preset that these values started from.
    weighted_passes : R2*: 0 is ordinary, n is n passes of weighted least squares. One is as good as three.
    angles : ``exact`` (2 tan(a / 2)) or ``small-angle`` (a), for R1 and A.
    signal : what R1, A and MTsat are computed from: signals extrapolated to TE = 0, or means of the echoes with TE up
        to the shortest train's last; A then is divided by the mean of exp(-TE R2*).
    mtsat_correction, mtsat_constant : see ``estimate_mtsat``; the constant is that of the correction if None.
    signal_floor : signals are raised to it before the logarithm, in units of the images.
    r1_limits : (low, high) in 1/s; values beyond are clipped, and so are errors.
    r2star_limit, mtsat_limit, amplitude_limit : largest magnitude, in 1/s, p.u. and units of the images.
    white_matter_probability, white_matter_pd : white matter, and what its PD averages (p.u.).

    Raises
    ------
    ProtocolError
        If a value is not possible.
    """

    name: str
    weighted_passes: int = 1
    angles: Angles = "exact"
    signal: Signal = "te0"
    mtsat_correction: Correction = "helms"
    mtsat_constant: float | None = None
    signal_floor: float = SIGNAL_FLOOR
    r1_limits: tuple[float, float] = (0.0, 2.0)
    r2star_limit: float = 1e4
    mtsat_limit: float = 5.0
    amplitude_limit: float = 1e5
    white_matter_probability: float = WHITE_MATTER_PROBABILITY
    white_matter_pd: float = WHITE_MATTER_PD

    def __post_init__(self) -> None:
        for key, value, valid in (
            ("angles", self.angles, ANGLES),
            ("signal", self.signal, SIGNALS),
            ("mtsat_correction", self.mtsat_correction, CORRECTIONS),
        ):
            if value not in valid:
                raise ProtocolError(
                    f"preset {self.name}: expected {key} to be one of {', '.join(valid)}, found '{value}'."
                    f"{nearest(str(value), valid)}"
                )
        if self.weighted_passes < 0 or int(self.weighted_passes) != self.weighted_passes:
            raise ProtocolError(
                f"preset {self.name}: expected weighted_passes 0, 1, 2, ..., found {self.weighted_passes}."
            )
        if not self.r1_limits[0] < self.r1_limits[1]:
            raise ProtocolError(f"preset {self.name}: expected r1_limits (low, high) in 1/s, found {self.r1_limits}.")
        for key in ("signal_floor", "r2star_limit", "mtsat_limit", "amplitude_limit", "white_matter_pd"):
            if not getattr(self, key) > 0:
                raise ProtocolError(f"preset {self.name}: expected {key} above 0, found {getattr(self, key):g}.")

    @property
    def constant(self) -> float:
        """Constant of the MTsat correction."""
        return CONSTANTS[self.mtsat_correction] if self.mtsat_constant is None else self.mtsat_constant

    def changed(self) -> dict[str, Any]:
        """Return the values that differ from those of the preset of this name (all of them if there is none)."""
        start = asdict(PRESETS[self.name]) if self.name in PRESETS else {}
        return {key: value for key, value in self.describe().items() if key not in start or _plain(start[key]) != value}

    def describe(self) -> dict[str, Any]:
        """Return a plain record (JSON)."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# hmri-0.x is what older papers used; new studies have no reason to.
PRESETS: dict[str, Preset] = {
    "hmri-1.0": Preset("hmri-1.0"),
    "hmri-0.x": Preset("hmri-0.x", weighted_passes=0, angles="small-angle"),
}


def find_preset(preset: str | Preset) -> Preset:
    """Return a preset by name, or as it is.

    Raises
    ------
    ProtocolError
        If there is none of this name.
    """
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ProtocolError(
            f"preset: expected one of {', '.join(PRESETS)}, found '{preset}'.{nearest(preset, PRESETS)} "
            "Other settings: dataclasses.replace(PRESETS[...], ...)."
        )
    return PRESETS[preset]
