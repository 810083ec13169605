"""Protocol of the simulated diffusion images, and what goes wrong in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from voxcloud.errors import PlanError
from voxcloud.testing.raw_geometry import Movement

MOST_VOLUMES = 600
LARGEST_B = 20_000.0


@dataclass(frozen=True)
class DwiProtocol:
    """Spin-echo EPI with diffusion weighting, phase encoding from front to back (``j-``), at 3 T.

    ``motion``, ``eddy`` and ``field`` are factors on what is typical: 0 is off.

    Attributes
    ----------
    voxel_mm
        Isotropic; None: 2 mm, or that of the echoes if it is larger.
    shells
        b-value in s/mm2 and number of directions of each.
    b0_volumes
        How many volumes without weighting, spread over the series.
    echo_spacing_s
        Effective; the readout takes this times the lines less one.
    multiband
        Slices excited at once.
    partial_fourier
        Part of the lines that is read, .6 to 1; the rest is filled with zeros.
    noise
        SD of both channels over the signal of white matter at b = 0 in the middle of the coil.
    motion
        A random walk of the head from volume to volume, in steps of .06 degrees and .08 mm SD per axis.
    movements
        In place of the walk: of each volume since the first, whose own must be none.
    eddy
        Fields of eddy currents, about 1 mm at 2 mm voxels and b = 1000.
    field
        The static field, as in the other simulated EPI images.
    dropped
        Probability that an excitation of a weighted volume loses 50 to 90 % of its signal.
    gibbs
        Read the images from a head of twice the matrix by cutting its k-space, so that edges ring.
    reversed_series
        Write the whole series with reversed phase encoding too, not only one volume at b = 0.
    oblique
        Whether slices are tilted, as operators tilt them.
    """

    voxel_mm: float | None = None
    shells: tuple[tuple[float, int], ...] = ((1000.0, 60),)
    b0_volumes: int = 6
    echo_time_s: float = 0.080
    repetition_time_s: float = 6.0
    echo_spacing_s: float = 0.00046
    multiband: int = 2
    partial_fourier: float = 1.0
    noise: float = 0.05
    motion: float = 1.0
    movements: tuple[Movement, ...] | None = None
    eddy: float = 1.0
    field: float = 1.0
    dropped: float = 0.003
    gibbs: bool = True
    reversed_series: bool = False
    oblique: bool = True

    @property
    def volumes(self) -> int:
        """How many a series has."""
        return self.b0_volumes + sum(count for _, count in self.shells)

    def to_tree(self) -> dict[str, Any]:
        """Return plain values."""
        tree = asdict(self) | {"shells": [list(shell) for shell in self.shells]}
        return tree | {"movements": None if self.movements is None else [m.to_tree() for m in self.movements]}


TINY_DWI = DwiProtocol(voxel_mm=8.0, shells=((1000.0, 12),), b0_volumes=2)
"""For tests: 14 volumes."""


def check_dwi(protocol: DwiProtocol) -> None:
    """Refuse a protocol that cannot be, or has times in ms.

    Raises
    ------
    PlanError
        With what was expected and found.
    """
    limits: Mapping[str, tuple[float, float, str]] = {
        "voxel_mm": (1.0, 12.0, " mm"),
        "b0_volumes": (1, MOST_VOLUMES, ""),
        "echo_time_s": (0.01, 0.3, " s"),
        "repetition_time_s": (0.3, 60.0, " s"),
        "echo_spacing_s": (5e-5, 0.005, " s"),
        "multiband": (1, 16, " slices"),
        "partial_fourier": (0.6, 1.0, ""),
        "noise": (0.0, 1.0, " times the signal of white matter"),
        "motion": (0.0, 20.0, " times what is typical"),
        "eddy": (0.0, 20.0, " times what is typical"),
        "field": (0.0, 5.0, " times what is typical"),
        "dropped": (0.0, 1.0, ""),
    }
    for name, (least, most, units) in limits.items():
        value = getattr(protocol, name)
        if value is not None and not least <= value <= most:
            raise PlanError(f"simulation: dwi {name} is expected to be {least:g} to {most:g}{units}, found {value:g}.")
    for bval, count in protocol.shells:
        if not 100.0 <= bval <= LARGEST_B or not 1 <= count <= MOST_VOLUMES:
            raise PlanError(
                f"simulation: dwi shells are expected to have b-values of 100 to {LARGEST_B:g} s/mm2 and 1 to "
                f"{MOST_VOLUMES} directions, found b = {bval:g} with {count}. b = 0 is counted by b0_volumes."
            )
    if not protocol.shells or protocol.volumes > MOST_VOLUMES:
        raise PlanError(
            f"simulation: dwi is expected to have a shell and at most {MOST_VOLUMES} volumes, found "
            f"{len(protocol.shells)} and {protocol.volumes}."
        )
    if protocol.partial_fourier < 1.0 and not protocol.gibbs:
        raise PlanError(
            f"simulation: dwi partial_fourier={protocol.partial_fourier:g} is expected with gibbs=True, as k-space is "
            "cut for both, found gibbs=False."
        )
    _check_movements(protocol)


def _check_movements(protocol: DwiProtocol) -> None:
    movements = protocol.movements
    if movements is None:
        return
    if len(movements) != protocol.volumes or movements[0] != Movement():
        raise PlanError(
            f"simulation: dwi movements are expected to be {protocol.volumes}, one per volume since the first, whose "
            f"own is none, found {len(movements)} that begin with {movements[0].to_tree() if movements else 'nothing'}."
        )
