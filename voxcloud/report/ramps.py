"""Colours of statistics: orange for more, blue for less, darker for stronger; pictures and colour bars of them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voxcloud.report.svg import INK, tick_text, ticks

Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

# They differ in lightness and in hue with every kind of colour vision.
MORE = ("#fdd49e", "#fc8d59", "#d7301f", "#7f0000")
LESS = ("#a6d5e8", "#41a0cc", "#1f6db0", "#081d58")


@dataclass(frozen=True)
class Ramp:
    """How statistics of one figure are coloured, from the cluster-forming threshold to the largest one."""

    bottom: float
    top: float
    more: bool
    less: bool

    def colours(self, values: Floats) -> Bytes:
        """Return the RGBA bytes of some statistics; 0 is transparent."""
        strength = np.clip((np.abs(values) - self.bottom) / max(self.top - self.bottom, 1e-12), 0.0, 1.0)
        out = np.zeros((*values.shape, 4), dtype=np.uint8)
        for chosen, stops in ((values > 0, MORE), (values < 0, LESS)):
            out[chosen] = _mixed(strength[chosen], stops)
        return out

    def bar(self, x: float, y: float, height: float, name: str, size: float = 8.0) -> str:
        """Return the colour bars as SVG: one per direction that was found."""
        signs = [s for s, there in ((1, self.more), (-1, self.less)) if there]
        own = (height - 14.0 * (len(signs) - 1)) / max(1, len(signs))
        parts = [f'<text x="{x:.1f}" y="{y - 5:.1f}" font-size="{size:g}">{name}</text>']
        for position, sign in enumerate(signs):
            parts.append(self._one_bar(x, y + position * (own + 14.0), own, sign, size))
        return "".join(parts)

    def _one_bar(self, x: float, y: float, height: float, sign: int, size: float) -> str:
        """Draw one direction; the strongest of it lies at the outer end."""
        stops = MORE if sign > 0 else LESS
        steps = 24
        parts = []
        for k in range(steps):
            share = (k + 0.5) / steps
            red, green, blue, _ = _mixed(np.array([1 - share if sign > 0 else share]), stops)[0]
            parts.append(
                f'<rect x="{x:.1f}" y="{y + height * k / steps:.2f}" width="6" height="{height / steps + 0.3:.2f}" '
                f'fill="#{red:02x}{green:02x}{blue:02x}"/>'
            )
        at = [v for v in ticks(self.bottom, self.top, 3) if v > 0] or [self.top]
        step = at[1] - at[0] if len(at) > 1 else at[0]
        for value in at:
            share = (value - self.bottom) / max(self.top - self.bottom, 1e-12)
            place = y + height * (1 - share if sign > 0 else share)
            parts.append(
                f'<path d="M{x + 6:.1f} {place:.1f}h2.5" stroke="{INK}" stroke-width="0.5"/>'
                f'<text x="{x + 10:.1f}" y="{place + 0.35 * size:.1f}" font-size="{size:g}">'
                f"{tick_text(sign * value, step)}</text>"
            )
        return "".join(parts)


def _mixed(strength: Floats, stops: tuple[str, ...]) -> Bytes:
    table = np.array([[int(s[k : k + 2], 16) for k in (1, 3, 5)] for s in stops], dtype=np.float64)
    at = np.linspace(0.0, 1.0, len(stops))
    out = np.full((strength.size, 4), 255, dtype=np.uint8)
    for channel in range(3):
        out[:, channel] = np.round(np.interp(strength, at, table[:, channel]))
    return out


def picture(pixels: Bytes, *, lossless: bool) -> str:
    """Return RGB or RGBA bytes, first row on top, as a WebP data URI."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    kwargs = {"lossless": True, "method": 4} if lossless else {"quality": 80, "method": 4}
    imsave(buffer, np.ascontiguousarray(pixels), format="webp", pil_kwargs=kwargs)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
