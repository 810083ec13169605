"""Small vector figures, written by hand: they stay sharp in print, weigh little and hold no date."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

# Okabe and Ito's palette: told apart with every kind of colour vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("", "7 3", "2 3", "8 3 2 3", "1 3", "5 5", "12 3")
INK = "#1f2933"
FAINT = "#d5dae1"


def colour(position: int) -> str:
    """Return the colour of the n-th group."""
    return PALETTE[position % len(PALETTE)]


def ticks(low: float, high: float, target: int = 5) -> list[float]:
    """Return round tick positions inside a range."""
    span = high - low
    if not span > 0:
        return [low]
    rough = span / target
    base = 10.0 ** math.floor(math.log10(rough))
    step = next(base * m for m in (1, 2, 2.5, 5, 10) if base * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float, step: float) -> str:
    """Return a tick label with the digits that its step needs."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e5):
        places = max(0, math.ceil(math.log10(abs(value)) - math.log10(step) - 1e-9)) if step > 0 else 1
        return f"{value:.{min(places, 3)}e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")
    places = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 2
    if step > 0 and abs(round(step, places) - step) > 1e-9 * step:
        places += 1  # steps of 2.5 or 0.25
    return f"{value:.{places}f}".replace("-", "−")


@dataclass
class Panel:
    """One set of axes; draw in data units, then ``render``."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: int = 330
    height: int = 240
    title: str = ""
    x_label: str = ""
    y_label: str = ""
    x_ticks: Sequence[float] | None = None
    x_tick_labels: Sequence[str] | None = None
    left: int = 72
    right: int = 12
    top: int = 26
    bottom: int = 42
    parts: list[str] = field(default_factory=list)

    def px(self, value: float) -> float:
        """Return the horizontal place of a value."""
        low, high = self.x
        return self.left + (value - low) / ((high - low) or 1.0) * (self.width - self.left - self.right)

    def py(self, value: float) -> float:
        """Return the vertical place of a value."""
        low, high = self.y
        return (
            self.height - self.bottom - (value - low) / ((high - low) or 1.0) * (self.height - self.top - self.bottom)
        )

    def line(
        self,
        xs: Sequence[float],
        ys: Sequence[float],
        ink: str,
        width: float = 1.0,
        dash: str = "",
        opacity: float = 1.0,
    ) -> None:
        """Draw a polyline."""
        points = " ".join(f"{self.px(a):.1f},{self.py(b):.1f}" for a, b in zip(xs, ys, strict=True))
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        faded = f' opacity="{opacity:g}"' if opacity < 1 else ""
        self.parts.append(
            f'<polyline points="{points}" fill="none" stroke="{ink}" stroke-width="{width:g}"{dashed}{faded}/>'
        )

    def band(self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], ink: str) -> None:
        """Draw a filled band."""
        there = [(a, b) for a, b in zip(xs, low, strict=True)]
        back = [(a, b) for a, b in zip(xs, high, strict=True)][::-1]
        points = " ".join(f"{self.px(a):.1f},{self.py(b):.1f}" for a, b in there + back)
        self.parts.append(f'<polygon points="{points}" fill="{ink}" opacity="0.15"/>')

    def dot(
        self, x: float, y: float, ink: str, radius: float = 3.0, hover: str = "", shape: int = 0, hollow: bool = False
    ) -> None:
        """Draw a marker (circle, square, triangle, diamond by ``shape``)."""
        a, b, r = self.px(x), self.py(y), radius
        paint = f'fill="{"white" if hollow else ink}" stroke="{ink}"'
        title = f"<title>{html.escape(hover)}</title>" if hover else ""
        kind = shape % 4
        if kind == 0:
            self.parts.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{r:g}" {paint}>{title}</circle>')
            return
        corners = {
            1: [(-r, -r), (r, -r), (r, r), (-r, r)],
            2: [(0, -1.25 * r), (1.15 * r, r), (-1.15 * r, r)],
            3: [(0, -1.35 * r), (1.35 * r, 0), (0, 1.35 * r), (-1.35 * r, 0)],
        }[kind]
        points = " ".join(f"{a + u:.1f},{b + v:.1f}" for u, v in corners)
        self.parts.append(f'<polygon points="{points}" {paint}>{title}</polygon>')

    def text(self, x: float, y: float, words: str, anchor: str = "start", size: int = 11, ink: str = INK) -> None:
        """Write at a place in data units."""
        self.parts.append(
            f'<text x="{self.px(x):.1f}" y="{self.py(y):.1f}" text-anchor="{anchor}" font-size="{size}" fill="{ink}" '
            f'stroke="white" stroke-width="3" paint-order="stroke">{html.escape(words)}</text>'
        )

    def render(self) -> str:
        """Return the panel as an SVG group with axes."""
        bottom, top = self.height - self.bottom, self.top
        found = [f'<path d="M{self.left} {top}V{bottom}H{self.width - self.right}" fill="none" stroke="{INK}"/>']
        at = ticks(*self.y)
        step = at[1] - at[0] if len(at) > 1 else abs(at[0]) or 1.0
        for value in at:
            y = self.py(value)
            found.append(
                f'<path d="M{self.left} {y:.1f}h-4" stroke="{INK}"/><path d="M{self.left} '
                f'{y:.1f}H{self.width - self.right}" stroke="{FAINT}" stroke-width="0.5"/>'
            )
            found.append(
                f'<text x="{self.left - 7}" y="{y + 4:.1f}" text-anchor="end" '
                f'font-size="11">{tick_text(value, step)}</text>'
            )
        found += self._x_axis(bottom)
        middle = (self.left + self.width - self.right) / 2
        if self.x_label:
            found.append(
                f'<text x="{middle:.0f}" y="{self.height - 6}" text-anchor="middle" '
                f'font-size="12">{html.escape(self.x_label)}</text>'
            )
        if self.y_label:
            y = (top + bottom) / 2
            found.append(
                f'<text transform="translate(13 {y:.0f}) rotate(-90)" text-anchor="middle" '
                f'font-size="12">{html.escape(self.y_label)}</text>'
            )
        if self.title:
            found.append(
                f'<text x="{self.left}" y="15" font-size="12" font-weight="600">{html.escape(self.title)}</text>'
            )
        return "".join([*found, *self.parts])

    def _x_axis(self, bottom: int) -> list[str]:
        values = list(self.x_ticks) if self.x_ticks is not None else ticks(*self.x)
        step = min((b - a for a, b in pairwise(values)), default=1.0) or 1.0
        labels = (
            list(self.x_tick_labels)
            if self.x_tick_labels is not None
            else [f"{v:g}".replace("-", "−") if self.x_ticks is not None else tick_text(v, step) for v in values]
        )
        found, last = [], -1e9
        for value, label in zip(values, labels, strict=True):
            x = self.px(value)
            found.append(f'<path d="M{x:.1f} {bottom}v4" stroke="{INK}"/>')
            # Labels that would touch are left out; their ticks stay.
            if x - last >= 5.5 * len(label) + 5:
                found.append(
                    f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle" '
                    f'font-size="11">{html.escape(label)}</text>'
                )
                last = x + 2.75 * len(label)
        return found


def row(panels: Sequence[Panel], alt: str, gap: int = 14) -> str:
    """Return panels side by side as one figure with an alternative text."""
    width = sum(p.width for p in panels) + gap * (len(panels) - 1)
    height = max(p.height for p in panels)
    groups, x = [], 0
    for panel in panels:
        groups.append(f'<g transform="translate({x} 0)">{panel.render()}</g>')
        x += panel.width + gap
    return figure("".join(groups), width, height, alt)


def figure(inside: str, width: float, height: float, alt: str, shown: float | None = None) -> str:
    """Return a complete SVG element that a screen reader can announce, at most ``shown`` pixels wide."""
    words = html.escape(alt, quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'style="width:100%;max-width:{shown or width:g}px" role="img" '
        f'aria-label="{words}" font-family="system-ui, sans-serif" '
        f'fill="{INK}"><title>{html.escape(alt)}</title>{inside}</svg>'
    )


def spread(values: Sequence[float], margin: float = 0.06) -> tuple[float, float]:
    """Return a range around values with a margin."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    if low == high:
        pad = abs(low) * 0.1 or 1.0
        return low - pad, high + pad
    pad = (high - low) * margin
    return low - pad, high + pad
