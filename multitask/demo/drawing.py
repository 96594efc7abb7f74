"""Draws one garment photo: a garment in fabric, on a floor or wall, photographed badly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter

Point = tuple[float, float]
Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "black": (45, 45, 52),
    "white": (238, 236, 230),
    "navy": (44, 62, 104),
    "red": (187, 54, 58),
    "green": (79, 127, 92),
    "pink": (226, 150, 168),
    "mustard": (211, 164, 62),
    "blue": (104, 150, 196),
    "grey": (140, 143, 150),
    "brown": (128, 92, 70),
}

# Right halves of garments as (distance from the middle, height) in units of the picture, from the neck down. The first
# part is the body, the others are sleeves.
SHAPES: dict[str, list[list[Point]]] = {
    "BLOUSES": [
        [(0, 0.2), (0.07, 0.15), (0.21, 0.19), (0.2, 0.38), (0.24, 0.62), (0.33, 0.8), (0.22, 0.84), (0, 0.85)],
        [(0.19, 0.18), (0.33, 0.2), (0.43, 0.36), (0.45, 0.52), (0.4, 0.6), (0.34, 0.59), (0.31, 0.46), (0.19, 0.36)],
    ],
    "SHIRTS": [
        [(0, 0.15), (0.08, 0.11), (0.27, 0.16), (0.26, 0.38), (0.265, 0.62), (0.28, 0.87), (0.14, 0.9), (0, 0.87)],
        [(0.25, 0.15), (0.33, 0.2), (0.38, 0.44), (0.41, 0.74), (0.335, 0.76), (0.3, 0.5), (0.25, 0.34)],
    ],
    "TANK_TOPS": [
        [
            (0, 0.34),
            (0.07, 0.3),
            (0.1, 0.12),
            (0.17, 0.12),
            (0.18, 0.28),
            (0.26, 0.38),
            (0.25, 0.6),
            (0.27, 0.84),
            (0, 0.86),
        ]
    ],
    "CASUAL_DRESSES": [
        [(0, 0.1), (0.06, 0.05), (0.17, 0.07), (0.15, 0.22), (0.115, 0.38), (0.19, 0.66), (0.25, 0.97), (0, 0.98)],
        [(0.15, 0.06), (0.25, 0.11), (0.27, 0.25), (0.19, 0.27), (0.14, 0.2)],
    ],
    "MINI_DRESSES": [
        [
            (0, 0.26),
            (0.05, 0.25),
            (0.12, 0.2),
            (0.155, 0.3),
            (0.12, 0.42),
            (0.24, 0.56),
            (0.38, 0.74),
            (0.2, 0.78),
            (0, 0.77),
        ]
    ],
}


@dataclass(frozen=True)
class Garment:
    """What is on a photo."""

    kind: str
    colour: str
    patterns: frozenset[str]


class Photo(NamedTuple):
    """An RGB picture, and how wide the garment is on it, in percent of the picture's width."""

    picture: Image.Image
    garment_width: float


def draw_photo(garment: Garment, random: Generator) -> Photo:
    """Draw a photo, portrait, 160 to 350 pixels a side; the same generator state draws the same photo."""
    width = int(random.integers(160, 250))
    height = int(width * random.uniform(1.1, 1.4))
    photo = _background((width * 2, height * 2), random)
    layer, mask = _dressed(garment, photo.size, random)
    shadow = mask.filter(ImageFilter.GaussianBlur(14)).point(lambda value: int(value * 0.45))
    photo.paste((20, 18, 22), (int(random.integers(4, 22)), int(random.integers(6, 26))), shadow)
    photo.paste(layer, (0, 0), mask)
    left, _, right, _ = mask.getbbox() or (0, 0, 0, 0)
    picture = _badly_photographed(photo.resize((width, height), Image.Resampling.BOX), random)
    return Photo(picture, round(100 * (right - left) / mask.width, 1))


def _dressed(garment: Garment, size: tuple[int, int], random: Generator) -> tuple[Image.Image, Image.Image]:
    """Draw the garment, placed and turned, and its mask."""
    width, height = size
    side = int(min(width, height) * random.uniform(0.9, 1.16))
    cloth = _fabric(garment, side, random)
    mask = Image.new("L", (side, side))
    body, *sleeves = SHAPES[garment.kind]
    parts = [_outline(sleeve, side, random, sign) for sleeve in sleeves for sign in (1, -1)]
    parts.append(_outline([*body, *((-x, y) for x, y in reversed(body) if x > 0)], side, random))
    pen = ImageDraw.Draw(mask)
    for part in parts:
        pen.polygon(part, fill=255)
    shaded = ImageChops.multiply(cloth, _folds(side, mask, random))
    _details(garment, shaded, mask, parts, side, random)
    angle = float(random.normal(0, 6))
    corner = (
        int((width - side) * random.uniform(0.25, 0.75)),
        int((height - side) * random.uniform(0.25, 0.75)),
    )
    layer, placed = Image.new("RGB", size), Image.new("L", size)
    layer.paste(shaded.rotate(angle, Image.Resampling.BILINEAR), corner)
    placed.paste(mask.rotate(angle, Image.Resampling.BILINEAR), corner)
    return layer, placed


def _outline(shape: Sequence[Point], side: int, random: Generator, sign: int = 1) -> list[Point]:
    """Place and loosen an outline, mirrored for a sign of -1, and round its corners by Chaikin's corner cutting."""
    points = np.array(shape) * (sign, 1) + random.normal(0, 0.006, (len(shape), 2)) + (0.5, 0)
    for _ in range(2):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.8 * points + 0.2 * following, 0.2 * points + 0.8 * following], axis=1).reshape(-1, 2)
    return [(float(x) * side, float(y) * side) for x, y in points]


def _fabric(garment: Garment, side: int, random: Generator) -> Image.Image:
    """Draw a square of fabric with its patterns."""
    base = np.clip(np.array(COLOURS[garment.colour]) + random.normal(0, 12, 3), 15, 245)
    big = int(side * 1.45)
    cloth = Image.new("RGB", (big, big), tuple(int(value) for value in base))
    ink = _contrasting(base, random)
    if "checker" in garment.patterns:
        _checks(cloth, ink, side * random.uniform(0.09, 0.13))
    if "floral" in garment.patterns:
        _flowers(cloth, _contrasting(base, random), side * random.uniform(0.09, 0.12), random)
    if "polka dot" in garment.patterns:
        _dots(cloth, ink, side * random.uniform(0.07, 0.105))
    turned = cloth.rotate(float(random.uniform(-10, 10)), Image.Resampling.BILINEAR)
    edge = (big - side) // 2
    return turned.crop((edge, edge, edge + side, edge + side))


def _contrasting(base: np.ndarray, random: Generator) -> Colour:
    """Choose a pattern colour that can be told from the fabric: one of the three furthest from it."""
    options = sorted(COLOURS.values(), key=lambda colour: -np.abs(np.array(colour) - base).sum())
    return options[int(random.integers(3))]


def _checks(cloth: Image.Image, ink: Colour, step: float) -> None:
    """Overlay gingham: half-covering stripes in both directions."""
    cover = np.zeros((cloth.height, cloth.width), np.float32)
    stripes = (np.arange(cloth.width) // step % 2).astype(np.float32)
    cover += 0.5 * stripes[None, :] + 0.5 * stripes[:, None]
    cloth.paste(ink, (0, 0), Image.fromarray((cover * 255).astype(np.uint8)))


def _dots(cloth: Image.Image, ink: Colour, step: float) -> None:
    """Draw dots on a staggered grid."""
    pen, radius = ImageDraw.Draw(cloth), step * 0.29
    for row in range(int(cloth.height / step) + 1):
        for column in range(int(cloth.width / step) + 1):
            x, y = (column + 0.5 * (row % 2)) * step, row * step
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)


def _flowers(cloth: Image.Image, ink: Colour, size: float, random: Generator) -> None:
    """Scatter flowers of five petals with a leaf."""
    pen = ImageDraw.Draw(cloth)
    for place in random.uniform(0, cloth.width, (int((cloth.width / size) ** 2 / 4), 2)):
        turn = random.uniform(0, 2 * np.pi)
        reach = size * random.uniform(0.6, 0.95)
        leaf = place + reach * 1.3 * np.array([np.cos(turn + 0.6), np.sin(turn + 0.6)])
        _disc(pen, leaf, reach * 0.5, (52, 158, 66))
        for angle in turn + np.arange(5) * 2 * np.pi / 5:
            _disc(pen, place + reach * 0.62 * np.array([np.cos(angle), np.sin(angle)]), reach * 0.42, ink)
        _disc(pen, place, reach * 0.3, (250, 205, 40))


def _disc(pen: ImageDraw.ImageDraw, centre: np.ndarray, radius: float, colour: Colour) -> None:
    x, y = centre
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _folds(side: int, mask: Image.Image, random: Generator) -> Image.Image:
    """Draw soft light and shadow: vertical folds, and darkness towards the edges."""
    y, x = np.mgrid[0:side:4, 0:side:4] / side
    light = np.full(x.shape, 0.9)
    for _ in range(3):
        waves, lean, phase = random.uniform(5, 16), random.normal(0, 3), random.uniform(0, 6.3)
        light += random.uniform(0.02, 0.05) * np.sin(2 * np.pi * waves * (x + 0.02 * lean * y) + phase) * (0.3 + y)
    soft = Image.fromarray(np.uint8(np.clip(light, 0, 1) * 255)).resize((side, side), Image.Resampling.BICUBIC)
    edges = mask.resize((side // 4, side // 4)).filter(ImageFilter.GaussianBlur(side / 130))
    edges = edges.point(lambda value: min(255, 120 + int(value * 0.55))).resize((side, side))
    return Image.merge("RGB", [ImageChops.multiply(soft, edges)] * 3)


def _details(
    garment: Garment, cloth: Image.Image, mask: Image.Image, parts: list[list[Point]], side: int, random: Generator
) -> None:
    """Draw seams, and what makes each kind what it is: collar and buttons, bow, straps, waist."""
    pen, dark = ImageDraw.Draw(cloth), tuple(int(value * 0.62) for value in COLOURS[garment.colour])
    for part in parts[:-1]:
        pen.line([*part, part[0]], fill=dark, width=max(2, side // 160))

    def at(*points: Point) -> list[Point]:
        return [(x * side, y * side) for x, y in points]

    thin = max(2, side // 140)
    if garment.kind == "SHIRTS":
        pen.line(at((0.5, 0.15), (0.5, 0.88)), fill=dark, width=thin)
        for height in np.linspace(0.24, 0.82, 6):
            _disc(pen, np.array([0.515, height]) * side, side * 0.008, (245, 243, 235))
        for sign in (1, -1):
            collar = at((0.5, 0.17), (0.5 + sign * 0.05, 0.1), (0.5 + sign * 0.1, 0.13), (0.5 + sign * 0.06, 0.22))
            pen.polygon(collar, fill=dark)
            ImageDraw.Draw(mask).polygon(collar, fill=255)
        pen.rectangle([*at((0.58, 0.34))[0], *at((0.68, 0.45))[0]], outline=dark, width=thin)
    elif garment.kind == "BLOUSES":
        for sign in (1, -1):
            pen.polygon(at((0.5, 0.2), (0.5 + sign * 0.09, 0.16), (0.5 + sign * 0.09, 0.25)), fill=dark)
            pen.line(at((0.5, 0.2), (0.5 + sign * 0.04, 0.36)), fill=dark, width=3 * thin)
            pen.line(at((0.5 + sign * 0.33, 0.57), (0.5 + sign * 0.41, 0.575)), fill=dark, width=3 * thin)
    elif garment.kind == "MINI_DRESSES":
        for sign in (1, -1):
            strap = at((0.5 + sign * 0.115, 0.21), (0.5 + sign * 0.07, 0.06))
            pen.line(strap, fill=dark, width=4 * thin)
            ImageDraw.Draw(mask).line(strap, fill=255, width=4 * thin)
        pen.line(at((0.38, 0.42), (0.62, 0.42)), fill=dark, width=2 * thin)
        pen.line(at((0.24, 0.6), (0.76, 0.6)), fill=dark, width=thin)
    elif garment.kind == "CASUAL_DRESSES":
        pen.line(at((0.38, 0.38), (0.62, 0.38)), fill=dark, width=3 * thin)
    else:
        pen.line(at((0.23, 0.82), (0.77, 0.82)), fill=dark, width=thin)


def _background(size: tuple[int, int], random: Generator) -> Image.Image:
    """Draw a wall, a wooden floor, a carpet or a bed sheet."""
    kind = int(random.integers(4))
    tint = np.array([(208, 200, 188), (168, 122, 84), (126, 118, 124), (214, 216, 222)][kind]) + random.normal(0, 16, 3)
    width, height = size
    small = (height // 4, width // 4)
    y, x = np.mgrid[0 : small[0], 0 : small[1]] / max(small)
    texture = np.zeros(small)
    if kind == 1:
        planks = random.uniform(0.1, 0.17)
        texture = 14 * np.sin(60 * x + 5 * np.sin(9 * y)) * 0.3 + 10 * np.sin(12.9 * (y // planks))
        texture -= 50 * (y % planks < 0.006)
    elif kind == 2:
        texture = random.normal(0, 14, small)
    elif kind == 3:
        lean = random.uniform(-4, 4)
        texture = 12 * np.sin(11 * x + lean * y + random.uniform(0, 6)) + 8 * np.sin(19 * y - lean * x)
    texture += random.uniform(-40, 40) * (x - 0.5) + random.uniform(-40, 40) * (y - 0.5)
    pixels = np.clip(tint + texture[..., None], 0, 255).astype(np.uint8)
    photo = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(photo)
    for _ in range(int(random.integers(0, 3))):
        colour = list(COLOURS.values())[int(random.integers(len(COLOURS)))]
        x0, y0 = random.uniform(-0.1, 1, 2) * size
        reach = random.uniform(0.05, 0.2) * width
        (pen.ellipse if random.random() < 0.5 else pen.rectangle)((x0, y0, x0 + reach, y0 + 1.4 * reach), fill=colour)
    return photo


def _badly_photographed(photo: Image.Image, random: Generator) -> Image.Image:
    """Add uneven, coloured, dim light, a shaky hand and a small sensor."""
    width, height = photo.size
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    light = 1 + random.normal(0, 0.25) * (x - 0.5) + random.normal(0, 0.25) * (y - 0.5)
    cast = np.clip(random.normal(1, 0.06, 3), 0.85, 1.15) * random.uniform(0.72, 1.1)
    pixels = np.asarray(photo, np.float32) * light[..., None] * cast + random.normal(
        0, random.uniform(1, 6), (height, width, 1)
    )
    photo = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    photo = ImageEnhance.Contrast(photo).enhance(float(random.uniform(0.75, 1.15)))
    return photo.filter(ImageFilter.GaussianBlur(float(random.uniform(0, 1.1))))
