"""What the scanner adds: transmit and static fields that go with the head, a receive field that stays with the coil.

At 3 T the pattern of B1+ is that of waves standing in the head; what a small movement in the coil adds is left out.
Positions are in mm: of the transmit field from the middle of the brain in the head's frame, of the receive field in
the scanner's frame with the isocentre at the origin, unless stated otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from voxcloud.testing.fields import Float32, Float64, generator
from voxcloud.testing.raw_sampling import sample_spline

HEAD_SEMI_AXES_MM = (72.0, 90.0, 78.0)
KNOT_MM, KNOT_SHAPE = 50.0, (8, 8, 8)
SPLINE_SD = (151.0 / 315.0) ** 1.5


@dataclass(frozen=True)
class CoilFields:
    """Transmit and receive field of one session.

    Attributes
    ----------
    transmit_centre, transmit_edge
        B1+ over nominal in the middle, and the value that it falls towards.
    transmit_knots, receive_knots
        What is particular to the session, relative, on knots 50 mm apart.
    scale
        Factor on the transmit field: a reference voltage that is off.
    """

    transmit_centre: float
    transmit_edge: float
    transmit_knots: Float32
    receive_knots: Float32
    scale: float = 1.0

    def transmit(self, points_mm: Float64) -> Float32:
        """Return B1+ as the ratio of actual to nominal flip angle, for points (point, 3).

        High in the middle and low at the surface, as waves in a head of water interfere at 3 T; a few per cent higher
        on one side, as circular polarisation is never perfect.
        """
        x, y, z = (
            (points_mm[:, a] - o) / s for a, (o, s) in enumerate(zip((3, -4, 4), HEAD_SEMI_AXES_MM, strict=True))
        )
        profile = np.exp(-1.1 * (x * x + y * y + z * z))
        field = self.transmit_edge + (self.transmit_centre - self.transmit_edge) * profile
        field *= 1.0 + 0.07 * np.tanh(x) - 0.04 * np.tanh(y)
        field *= 1.0 + sample_spline(self.transmit_knots, _knots(points_mm))[:, 0]
        return np.asarray(self.scale * field, dtype=np.float32)

    def receive(self, points_mm: Float64) -> Float32:
        """Return the sensitivity of the receiving array, about 1 in the middle and 1.5 to 2 at the surface."""
        x, y, z = (points_mm[:, a] / s for a, s in enumerate(HEAD_SEMI_AXES_MM))
        square = x * x + y * y + z * z
        field = 1.0 + 0.75 * square / (1.0 + 0.25 * square)
        field *= 1.0 + 0.08 * np.tanh(y) + 0.05 * np.tanh(z) - 0.05 * np.tanh(x)
        field *= 1.0 + sample_spline(self.receive_knots, _knots(points_mm))[:, 0]
        return np.asarray(field, dtype=np.float32)


def coil_fields(seed: int, participant: str, session: str, *, scale: float = 1.0) -> CoilFields:
    """Draw the fields of a session: B1+ is the person's, mostly; the array is everybody's but for where it was put."""
    person, visit = generator(seed, "coil", participant), generator(seed, "coil", participant, session)
    centre = 1.18 + 0.03 * person.standard_normal() + 0.01 * visit.standard_normal()
    knots = 0.03 * person.standard_normal((*KNOT_SHAPE, 1)) + 0.01 * visit.standard_normal((*KNOT_SHAPE, 1))
    receive = 0.04 * visit.standard_normal((*KNOT_SHAPE, 1))
    edge = 0.62 + 0.02 * person.standard_normal()
    return CoilFields(
        float(centre),
        float(edge),
        (knots / SPLINE_SD).astype(np.float32),
        (receive / SPLINE_SD).astype(np.float32),
        scale,
    )


def static_field_hz(head_mm: Float64) -> Float32:
    """Return the deviation of the static field in Hz at points (point, 3) of the head's frame at 3 T.

    Raised over the sinuses, and beside the ear canals, where air meets tissue; a gentle quadratic is what shims leave.
    """
    field = np.zeros(len(head_mm))
    for centre, width, hz in (
        ((0.0, 58.0, -34.0), 22.0, 160.0),
        ((54.0, -24.0, -38.0), 16.0, 70.0),
        ((-54.0, -24.0, -38.0), 16.0, 60.0),
    ):
        square = ((head_mm - np.asarray(centre)) ** 2).sum(axis=1)
        field += hz * np.exp(-0.5 * square / width**2)
    x, y, z = (head_mm[:, a] / 100.0 for a in range(3))
    field += 12.0 * (x * x - 0.5 * y * y) - 15.0 * z + 6.0 * x - 10.0
    return np.asarray(field, dtype=np.float32)


def _knots(points_mm: Float64) -> Float64:
    return np.asarray(points_mm / KNOT_MM + (np.asarray(KNOT_SHAPE) - 1) / 2.0)
