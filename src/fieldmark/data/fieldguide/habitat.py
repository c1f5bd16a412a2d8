"""Habitats: the backgrounds. Each seed is a place of its own, with its own sky, ground and growth."""

import colorsys

import numpy as np

from fieldmark.data.fieldguide.drawing import Canvas

GROUNDS = ("hills", "reeds", "dunes", "waves", "pines", "meadow", "rocks", "bushes")


def draw_habitat(canvas: Canvas, habitat: int | None, rng: np.random.Generator) -> None:
    """Draw the place ``habitat`` (its seed), or for None the plain paper of a book's plate.

    ``rng`` varies what changes between two pictures of one place.
    """
    if habitat is None:
        canvas.path(
            "habitat",
            "M0,0H100V100H0Z",
            _color(rng.uniform(0.05, 0.65), rng.uniform(0.02, 0.25), rng.uniform(0.8, 0.97)),
        )
        return
    place = np.random.default_rng([7, habitat])
    hue, ground_hue = place.random(), place.random()
    ground = GROUNDS[place.integers(len(GROUNDS))]
    sky_light, horizon = place.uniform(0.72, 0.93), place.uniform(45, 72)
    sky = _color(hue, place.uniform(0.18, 0.55), sky_light)
    far = _color(ground_hue, place.uniform(0.25, 0.6), place.uniform(0.62, 0.82))
    near = _color(ground_hue + place.uniform(-0.06, 0.06), place.uniform(0.3, 0.65), place.uniform(0.42, 0.66))
    shift = rng.uniform(-6, 6)
    canvas.path("habitat", "M0,0H100V100H0Z", sky)
    if place.random() < 0.5:
        x, y, r = place.uniform(10, 90) + shift, place.uniform(6, 26), place.uniform(5, 9)
        canvas.circle("habitat", x, y, r, _color(place.random(), 0.35, 0.97))
    canvas.path("habitat", f"M0,{horizon:.1f}H100V100H0Z", far)
    _growth(canvas, ground, far, near, horizon, place, shift)


def _growth(
    canvas: Canvas, ground: str, far: str, near: str, horizon: float, place: np.random.Generator, shift: float
) -> None:
    count = int(place.integers(4, 9))
    xs = [(k + place.uniform(0.1, 0.9)) * 100 / count + shift for k in range(count)]
    for x in xs:
        w, h = place.uniform(6, 14), place.uniform(10, 30)
        y = horizon
        if ground == "hills":
            canvas.path("habitat", f"M{x - 2 * w:.1f},{y:.1f} Q{x:.1f},{y - h:.1f} {x + 2 * w:.1f},{y:.1f}Z", near)
        elif ground == "reeds":
            canvas.path(
                "habitat",
                f"M{x:.1f},100 Q{x + 2:.1f},{y:.1f} {x + w / 2:.1f},{y - h:.1f}",
                "none",
                stroke=near,
                width=2.2,
            )
        elif ground == "dunes":
            canvas.path(
                "habitat", f"M{x - 3 * w:.1f},{y + h:.1f} Q{x:.1f},{y - 4:.1f} {x + 3 * w:.1f},{y + h:.1f}Z", near
            )
        elif ground == "waves":
            for k in range(3):
                canvas.path(
                    "habitat",
                    f"M{x - w:.1f},{y + 8 + 12 * k:.1f} q{w / 2:.1f},-5 {w:.1f},0 q{w / 2:.1f},5 {w:.1f},0",
                    "none",
                    stroke=near,
                    width=1.8,
                )
        elif ground == "pines":
            canvas.path(
                "habitat", f"M{x - w / 2:.1f},{y + 6:.1f} L{x:.1f},{y - h:.1f} L{x + w / 2:.1f},{y + 6:.1f}Z", near
            )
        elif ground == "meadow":
            for k in range(4):
                canvas.path(
                    "habitat",
                    f"M{x + 3 * k:.1f},{y + 30:.1f} q-1,-10 {k - 2:.1f},-{h:.1f}",
                    "none",
                    stroke=near,
                    width=1.0,
                )
            canvas.circle("habitat", x, y + h / 2, 2.2, _color(place.random(), 0.6, 0.9))
        elif ground == "rocks":
            canvas.path(
                "habitat",
                f"M{x - w:.1f},{y + 14:.1f} L{x - w / 2:.1f},{y - h / 3:.1f} "
                f"L{x + w / 3:.1f},{y - h / 4:.1f} L{x + w:.1f},{y + 14:.1f}Z",
                near,
            )
        else:
            canvas.circle("habitat", x, y + 2, w, near)


def _color(hue: float, saturation: float, value: float) -> str:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return f"#{int(255 * red):02x}{int(255 * green):02x}{int(255 * blue):02x}"
