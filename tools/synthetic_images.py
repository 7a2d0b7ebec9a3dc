"""Draw synthetic dermoscopic images: lesions, skin, hair, bubbles, rulers and light.

The classes differ, with overlap, in what dermatologists look for: asymmetry, border, colours and
structures of the ABCD rule (Stolz et al., Eur. J. Dermatol. 4, 1994), the 7-point checklist
(Argenziano et al., Arch. Dermatol. 134, 1998) and the criteria of basal cell carcinoma (Menzies et
al., Arch. Dermatol. 136, 2000).

Lengths are in half frame heights: the frame spans y in [-1, 1] and x in [-4/3, 4/3]. Colour is
display RGB in [0, 255]; pigments absorb it as exp(-density * absorption).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy import ndarray
from numpy.random import Generator, SeedSequence

HEIGHT, WIDTH = 300, 400
PIXELS = HEIGHT / 2  # pixels in one unit of length

# Absorption of red, green and blue by one unit of each pigment; white is the light reflected by
# skin without pigment. Fitted by eye to mean colours of skin and lesions in HAM10000.
WHITE = np.array([240, 219, 222], np.float32)
MELANIN = np.array([0.42, 0.95, 1.10], np.float32)
YELLOW_SHIFT = np.array([-0.06, -0.12, 0.30], np.float32)  # light brown against reddish brown
BLOOD = np.array([0.12, 0.62, 0.52], np.float32)
VESSEL = np.array([0.22, 0.85, 0.65], np.float32)
DEEP_MELANIN = np.array([1.10, 0.90, 0.64], np.float32)  # below the papillary dermis: blue-grey
HAZE = np.array([184, 170, 196], np.float32)
SCAR = np.array([236, 208, 212], np.float32)


def generator(seed: int, *key: int) -> Generator:
    """Return a generator for a seed and a key; other keys are independent."""
    return np.random.default_rng(SeedSequence(seed, spawn_key=key))


def draw_view_images(view: dict, seed: int) -> dict[str, ndarray]:
    """Draw one row of `image_plan`.

    Returns
    -------
    dict of ndarray of uint8
        `image` and `clean`, shape (300, 400, 3), RGB; `lesion`, `hair` and `bubbles`, masks of
        shape (300, 400), 0 or 255.
    """
    lesion_rng = generator(seed, view["lesion"], 1)
    view_rng = generator(seed, view["lesion"], 2 + view["view"], 0)
    traits = draw_traits(view["dx"], lesion_rng)
    camera_names = ("rotation", "mirrored", "scale", "shift_x", "shift_y")
    camera = camera_matrix(**{name: view[name] for name in camera_names})
    image, lesion = draw_lesion_image(traits, camera, view, lesion_rng)
    clean = photograph(image, view, view_rng)
    image, hair = overlay_hair(clean, view["hairs"], view_rng)
    image, bubbles = overlay_bubbles(image, view["bubbles"], view["reflections"], view_rng)
    pictures = {
        name: np.round(p).astype(np.uint8) for name, p in (("image", image), ("clean", clean))
    }
    masks = {"lesion": lesion, "hair": hair, "bubbles": bubbles}
    return pictures | {name: mask.astype(np.uint8) * 255 for name, mask in masks.items()}


# Lesions ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Traits:
    """The appearance of a lesion; zero means absent, lengths are in half frame heights."""

    radius: float
    aspect: float
    skew: float  # egg shape and one-sided pigment: asymmetry in axis and colour
    lobes: int
    irregularity: float  # of the border, as a fraction of the radius
    softness: float  # width of the fading border, as a fraction of the radius
    melanin: float
    gradient: float  # positive: darker centre
    mottle: float  # patchiness of the pigment, standard deviation of its logarithm
    yellow: float
    hue_variation: float
    network: float
    disorder: float  # of the network
    globules: float
    redness: float
    blotches: int = 0
    dots: int = 0
    streaks: float = 0.0
    veil: float = 0.0
    regression: float = 0.0
    vessels: int = 0
    nests: int = 0
    ulcer: float = 0.0
    shiny: float = 0.0


def draw_traits(dx: str, rng: Generator) -> Traits:
    """Draw a lesion of a class; classes overlap."""
    if dx == "bcc":
        return carcinoma_traits(rng)
    if dx == "mel":
        return melanocytic_traits(rng, rng.beta(4.6, 1.8), pink=rng.random() < 0.06)
    return melanocytic_traits(rng, rng.beta(1.2, 5.4), pink=rng.random() < 0.08)


def melanocytic_traits(rng: Generator, atypia: float, pink: bool) -> Traits:
    """Draw a nevus or melanoma: one recipe, in which only `atypia` in [0, 1] separates them.

    Asymmetry, border, colours and structures follow the ABCD rule; atypical network, blue-white
    veil, irregular streaks, pigmentation and dots, and regression the 7-point checklist.
    """
    pattern = rng.choice(3, p=[0.5, 0.2, 0.3])  # reticular, globular, homogeneous
    return Traits(
        radius=float(np.clip(np.exp(rng.normal(-0.85 + 0.4 * atypia, 0.26)), 0.30, 0.82)),
        aspect=float(np.exp(rng.normal(0, 0.32))),
        skew=atypia * rng.uniform(0.3, 1.0),
        lobes=int(rng.binomial(3, 0.7 * atypia**1.5)),
        irregularity=0.04 + 0.15 * atypia * rng.uniform(0.4, 1.3),
        softness=rng.uniform(0.10, 0.36) * (1 - 0.5 * atypia),
        melanin=float(rng.lognormal(-0.25 + 0.1 * atypia, 0.4)) * (0.3 if pink else 1.0),
        gradient=rng.normal(0.3, 0.5),
        mottle=0.14 + 0.45 * atypia * rng.uniform(0.5, 1.2),
        yellow=rng.normal(0.0, 0.4),
        hue_variation=rng.uniform(0.05, 0.2) + 0.9 * atypia * rng.uniform(0.3, 1.0),
        network=float((pattern == 0) * rng.uniform(0.3, 0.8) + 0.1 * rng.random()),
        disorder=0.1 + 0.9 * atypia * rng.uniform(0.4, 1.2),
        globules=float((pattern == 1) * rng.uniform(0.3, 0.9)),
        redness=rng.uniform(0, 0.35) + (0.4 if pink else 0.0) + 0.2 * atypia * rng.random(),
        blotches=int(rng.poisson(2.4 * atypia**1.6)),
        dots=int(rng.poisson(2 + 40 * atypia * rng.random())),
        streaks=float((rng.random() < 0.6 * atypia) * rng.uniform(0.4, 1.0)),
        veil=float((rng.random() < 0.8 * atypia**1.6) * rng.uniform(0.4, 1.0)),
        regression=float((rng.random() < 0.5 * atypia**1.3) * rng.uniform(0.4, 1.0)),
        vessels=int((rng.random() < (0.5 if pink else 0.03)) * rng.integers(1, 3)),
    )


def carcinoma_traits(rng: Generator) -> Traits:
    """Draw a basal cell carcinoma: pink, with some of the criteria of Menzies (2000).

    Those are arborising vessels, blue-grey ovoid nests and ulceration without a pigment network;
    about a quarter are pigmented and resemble melanomas.
    """
    pigmented = rng.random() < 0.28
    return Traits(
        radius=float(np.clip(np.exp(rng.normal(-0.68, 0.26)), 0.32, 0.82)),
        aspect=float(np.exp(rng.normal(0, 0.32))),
        skew=rng.uniform(0.1, 0.8),
        lobes=int(rng.binomial(3, 0.35)),
        irregularity=rng.uniform(0.07, 0.18),
        softness=rng.uniform(0.12, 0.32),
        melanin=float(rng.lognormal(-0.6 if pigmented else -1.9, 0.5)),
        gradient=rng.normal(-0.1, 0.4),
        mottle=rng.uniform(0.3, 0.8),
        yellow=rng.normal(0.2, 0.4),
        hue_variation=rng.uniform(0.1, 0.9),
        network=0.1 * rng.random(),
        disorder=rng.uniform(0.3, 1.0),
        globules=0.0,
        redness=rng.uniform(0.12, 0.55),
        blotches=int(rng.poisson(0.9 if pigmented else 0.1)),
        dots=int(rng.poisson(6)),
        veil=float((rng.random() < 0.15) * rng.uniform(0.3, 0.7)),
        vessels=int((rng.random() < 0.85) * rng.integers(1, 5)),
        nests=int(rng.poisson(8 if pigmented else 2.3)),
        ulcer=float((rng.random() < 0.35) * rng.uniform(0.4, 1.0)),
        shiny=float((rng.random() < 0.6) * rng.uniform(0.4, 1.0)),
    )


def draw_lesion_image(
    traits: Traits, camera: ndarray, skin: dict, rng: Generator
) -> tuple[ndarray, ndarray]:
    """Draw a lesion on its skin, seen by one camera in white light.

    Parameters
    ----------
    traits : Traits
        See `draw_traits`.
    camera : ndarray of float, shape (2, 3)
        Affine map from pixel (x, y, 1) to the skin.
    skin : dict
        `skin_tone`, `flush` and `skin_texture`, see `draw_skin`.
    rng : numpy.random.Generator
        In the same state, it draws the same lesion for every camera.

    Returns
    -------
    image : ndarray of float32, shape (300, 400, 3), RGB in [0, 255]
    lesion_mask : ndarray of bool, shape (300, 400)
    """
    at, radius = skin_coordinates(camera), traits.radius
    melanin, blood = skin_pigments(at, skin, rng)
    depth = lesion_depth(at, traits, rng)
    softness = traits.softness * np.exp(0.6 * noise_field(at, radius, rng))
    inside = _step(depth, softness)
    patches = 0.5 + _step(noise_field(at, 0.8 * radius, rng), 0.7)
    pigment = lesion_pigment(at, depth, traits, rng)
    pigment = inside * (pigment + dot_layer(traits.dots, radius, camera, rng))
    blood = blood + traits.redness * inside * patches
    scar = inside * ragged_spot(at, traits, 0.5, traits.regression, rng)
    pigment = pigment * (1 - 0.8 * scar)
    hue = traits.yellow + traits.hue_variation * noise_field(at, 0.7 * radius, rng)
    absorption = MELANIN + hue.clip(-0.5, 1.2)[..., None] * YELLOW_SHIFT
    image = WHITE * np.exp(-(melanin + pigment)[..., None] * absorption - blood[..., None] * BLOOD)
    image = _blend(image, SCAR, 0.35 * scar)
    grain = 1 + 0.25 * noise_field(at, 0.15, rng, rough=True)
    veil = inside * patches * grain * ragged_spot(at, traits, 0.6, traits.veil, rng)
    deep = 0.7 * veil + nest_layer(at, traits, camera, rng)
    deep = deep + scar * dot_layer(60, radius, camera, rng)  # peppering
    if deep.any():
        image = image * np.exp(-deep[..., None] * DEEP_MELANIN)
    image = _blend(image, HAZE, 0.28 * veil)
    image = _blend(image, SCAR + 8, shiny_layer(at, inside, traits, rng))
    image = draw_ulcer(image, at, inside, traits, rng)
    vessels = vessel_layer(traits, camera, rng)
    return image * np.exp(-vessels[..., None] * VESSEL), depth > 0


def camera_matrix(
    rotation: float, mirrored: bool, scale: float, shift_x: float, shift_y: float
) -> ndarray:
    """Return the affine map from pixel (x, y, 1) to the skin, shape (2, 3)."""
    cos, sin = np.cos(rotation), np.sin(rotation)
    turn = np.array([[cos, -sin], [sin, cos]]) @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    turn /= PIXELS * scale
    centre = np.array([WIDTH / 2, HEIGHT / 2]) + PIXELS * np.array([shift_x, shift_y])
    return np.column_stack([turn, -turn @ centre])


def skin_coordinates(camera: ndarray) -> ndarray:
    """Return x and y on the skin of every pixel, shape (2, 300, 400), float32."""
    rows, columns = np.indices((HEIGHT, WIDTH), np.float32)
    return np.stack([a * columns + b * rows + c for a, b, c in camera.astype(np.float32)])


def skin_pigments(at: ndarray, skin: dict, rng: Generator) -> tuple[ndarray, ndarray]:
    """Return melanin and blood of the skin around: mottled, finely lined, some freckles."""
    texture = skin["skin_texture"]
    edge, _, _ = honeycomb(at, rng.uniform(0.07, 0.12), 0.5, rng)
    lines = np.exp(-((edge / 0.16) ** 2))
    freckles = (noise_field(at, 0.2, rng) - 1.6).clip(0, 1.5) * (rng.random() < 0.35)
    melanin = skin["skin_tone"] * (1 + 0.15 * texture * noise_field(at, 0.2, rng, rough=True))
    melanin = melanin + texture * (0.25 * freckles - 0.05 * lines)
    flush = skin["flush"] * (1 + 0.14 * texture * noise_field(at, 0.5, rng))
    flush = flush + 0.05 * texture * noise_field(at, 0.15, rng, rough=True)
    return melanin.clip(0, 5), flush.clip(0, 5)


def lesion_depth(at: ndarray, traits: Traits, rng: Generator) -> ndarray:
    """Return the depth inside the lesion as a fraction of the radius; 0 is the border.

    An egg with lobes, warped by noise; streaks push the border out along rays of one sector.
    """
    radius = traits.radius
    x, y = warped(at, radius, traits.irregularity * radius, rng)
    x, y = warped(np.stack([x, y]), 0.25 * radius, 0.25 * traits.irregularity * radius, rng)
    x = x * (1 + 0.3 * traits.skew * y / radius).clip(0.6, 1.5)
    root = traits.aspect**0.5
    distances = [np.hypot(x / root, y * root) / radius]
    angles, reaches, sizes = rng.uniform([[0.0], [0.5], [0.35]], [[6.28], [1.0], [0.6]], (3, 3))
    for angle, reach, size in zip(angles.tolist(), reaches.tolist(), sizes.tolist(), strict=True):
        u, v = x - reach * radius * math.cos(angle), y - reach * radius * math.sin(angle)
        distances.append(np.hypot(u, v) / (size * radius))
    distance = distances[0]
    for other in distances[1 : 1 + traits.lobes]:  # a smooth minimum
        distance = -0.12 * np.logaddexp(-distance / 0.12, -other / 0.12)
    middle, phase = rng.uniform(-3.14, 3.14), rng.uniform(0, 6)
    if not traits.streaks:
        return 1 - distance
    theta = np.arctan2(y, x)
    rays = np.sin(19 * theta + phase + 2.5 * noise_field(at, radius, rng)).clip(-0.2, 1)
    return 1 - distance + 0.2 * traits.streaks * np.exp(2 * np.cos(theta - middle) - 2) * rays


def lesion_pigment(at: ndarray, depth: ndarray, traits: Traits, rng: Generator) -> ndarray:
    """Return the lesion's melanin: browns, network, globules and dark blotches."""
    radius, depth = traits.radius, depth.clip(0, 1)
    patches = noise_field(at, 0.5 * radius, rng)
    clouds = noise_field(at, 0.2 * radius + 0.05, rng, rough=True)
    angle = rng.uniform(0, 6.28)
    tilt = ((at[0] * math.cos(angle) + at[1] * math.sin(angle)) / radius).clip(-1.3, 1.3)
    exponent = traits.mottle * patches + (0.08 + 0.4 * traits.mottle) * clouds
    exponent = exponent + 0.55 * traits.skew * tilt + traits.gradient * (depth - 0.4)
    pigment = traits.melanin * np.exp(exponent.clip(-2, 1.2))

    edge, centre, lot = honeycomb(at, rng.uniform(0.034, 0.054), traits.disorder, rng)
    shown = 1 - traits.disorder * _step(noise_field(at, 0.7 * radius, rng) - 0.2, 0.4)
    width = 0.15 * np.exp(0.25 * clouds + 0.4 * traits.disorder * patches)
    lines = np.exp(-((edge / width) ** 2)) * shown * (1.4 - 0.8 * depth)
    pigment = pigment * (1 - 0.45 * traits.network + 1.3 * traits.network * lines)
    globules = _step(0.30 + 0.10 * lot - centre, 0.08) * (lot > 0.25 + 0.4 * traits.mottle)
    pigment = pigment * (1 - 0.3 * traits.globules) + 0.7 * traits.globules * globules
    for _ in range(traits.blotches):
        size, density = rng.uniform([0.16, 0.7], [0.42, 2.0]).tolist()
        pigment = pigment + ragged_spot(at, traits, size, density, rng)
    return pigment


def dot_layer(dots: int, radius: float, camera: ndarray, rng: Generator) -> ndarray:
    """Return density of pigment in dots scattered over a lesion."""
    angles, reach = rng.uniform(0, 6.28, 80), radius * np.sqrt(rng.uniform(0, 0.9, 80))
    centres = np.column_stack([reach * np.cos(angles), reach * np.sin(angles)])[:dots]
    sizes, density = rng.uniform(0.003, 0.012, 80)[:dots], rng.uniform(0.3, 1.2, 80)[:dots]
    return cv2.GaussianBlur(disc_layer(centres, sizes, density, camera), (0, 0), 0.7)


def nest_layer(at: ndarray, traits: Traits, camera: ndarray, rng: Generator) -> ndarray:
    """Return density of deep pigment in blue-grey ovoid nests, in one or two clusters."""
    if not traits.nests:
        return np.zeros((HEIGHT, WIDTH), np.float32)
    hubs = rng.normal(0, 0.32 * traits.radius, (2, 2))
    centres = hubs[rng.integers(0, 2, 24)] + rng.normal(0, 0.22 * traits.radius, (24, 2))
    sizes = rng.uniform(0.02, 0.085, 24) * (0.5 + traits.radius)
    shown = slice(0, traits.nests)
    layer = disc_layer(centres[shown], sizes[shown], rng.uniform(0.3, 1.0, 24)[shown], camera)
    rows, columns = np.indices((HEIGHT, WIDTH), np.float32)
    columns = columns + 2.5 * noise_field(at, 0.15, rng)
    rows = rows + 2.5 * noise_field(at, 0.15, rng)
    layer = cv2.remap(layer, columns, rows, cv2.INTER_LINEAR)
    layer = cv2.GaussianBlur(layer, (0, 0), rng.uniform(1.5, 3.5))
    return layer * (1 + 0.2 * noise_field(at, 0.15, rng, rough=True))


def shiny_layer(at: ndarray, inside: ndarray, traits: Traits, rng: Generator) -> ndarray:
    """Return opacity of shiny white areas and strands."""
    if not traits.shiny:
        return np.zeros((HEIGHT, WIDTH), np.float32)
    area = _step(noise_field(at, 0.35 * traits.radius, rng) - 0.9, 0.4)
    strands = np.exp(-((noise_field(at, 0.5 * traits.radius, rng, rough=True) / 0.12) ** 2))
    return traits.shiny * inside * (0.5 * area + 0.25 * strands).clip(0, 0.7)


def draw_ulcer(
    image: ndarray, at: ndarray, inside: ndarray, traits: Traits, rng: Generator
) -> ndarray:
    """Draw an ulcer over the image: orange-red, with dark crust."""
    if not traits.ulcer:
        return image
    opacity = min(1.1 * traits.ulcer, 0.85)
    spot = ragged_spot(at, traits, rng.uniform(0.16, 0.34), opacity, rng)
    crust = _step(noise_field(at, 0.2, rng) - rng.normal(0.2, 0.6), 0.4)
    grain = noise_field(at, 0.15, rng, rough=True)[..., None]
    colour = _blend(np.float32([186, 80, 56]) + 14 * grain, np.float32([88, 40, 28]), 0.8 * crust)
    return _blend(image, colour, spot * inside)


def vessel_layer(traits: Traits, camera: ndarray, rng: Generator) -> ndarray:
    """Return density of blood in sharply focused branching vessels, shape (300, 400)."""
    canvas = np.zeros((2 * HEIGHT, 2 * WIDTH), np.uint8)
    for _ in range(traits.vessels):
        for points, width in vessel_tree(traits.radius, rng):
            shade = min(230, round(70 + 50 * width))
            _draw_line(canvas, 2 * to_pixels(points, camera), shade, round(width))
    return cv2.GaussianBlur(_halved(canvas), (0, 0), 0.5)


def vessel_tree(radius: float, rng: Generator) -> list[tuple[ndarray, float]]:
    """Return the branches of one vessel, each a polyline (n, 2) and a width in half pixels."""
    angle = rng.uniform(0, 6.28)
    start = radius * rng.uniform(0.3, 1.1) * np.array([np.cos(angle), np.sin(angle)])
    stack = [(start, angle + np.pi + rng.normal(0, 0.7), rng.uniform(1.8, 4.2), radius)]
    branches = []
    while stack and len(branches) < 24:
        point, heading, width, length = stack.pop(0)
        headings = heading + np.cumsum(rng.normal(0, 0.25, 16))
        steps = length / 16 * np.column_stack([np.cos(headings), np.sin(headings)])
        points = np.vstack([point, point + np.cumsum(steps, axis=0)])
        branches.append((points, width))
        for knot in rng.integers(3, 17, rng.integers(1, 4) if width > 1 else 0):
            turn = headings[knot - 1] + rng.choice([-1, 1]) * rng.uniform(0.4, 1.0)
            stack.append((points[knot], turn, 0.65 * width, length * rng.uniform(0.35, 0.65)))
    return branches


# Distractors --------------------------------------------------------------------------------------


def photograph(image: ndarray, view: dict, rng: Generator) -> ndarray:
    """Add the effects that preprocessing does not remove: light, blur, noise, ruler, corners."""
    down, across = np.indices((HEIGHT, WIDTH), np.float32) / np.float32(PIXELS)
    down, across = down - 1, across - 4 / 3
    if view["ruler"]:
        image = _blend(image, np.float32([70, 66, 72]), ruler_layer(rng))
    light = 1 + 0.05 * (across * rng.normal() + down * rng.normal())
    light = light - rng.uniform(0.0, 0.08) * (across**2 + down**2)
    if view["dark_corners"]:
        distance = np.hypot(across - rng.normal(0, 0.06), down - rng.normal(0, 0.05))
        light = light * (1 - 0.96 * _step(distance - rng.uniform(1.28, 1.55), 0.03))
    image = image * np.float32([view["gain_r"], view["gain_g"], view["gain_b"]]) * light[..., None]
    image = cv2.GaussianBlur(image, (0, 0), view["blur"])
    grain = rng.standard_normal(image.shape, np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), 0.7) * rng.uniform(2.0, 6.0)
    return (image + grain).clip(0, 255)


def overlay_hair(image: ndarray, hairs: int, rng: Generator) -> tuple[ndarray, ndarray]:
    """Draw hairs over an image; return it and the mask of visible changes, (300, 400) bool."""
    if not hairs:
        return image, np.zeros((HEIGHT, WIDTH), bool)
    shade, combing = np.float32(rng.uniform()), rng.uniform(0, 6.28)
    if rng.random() < 0.8:
        colour = np.float32([44, 30, 28]) + shade * np.float32([60, 44, 40])
        width = rng.uniform(0.8, 3.6)
    else:
        colour, width = np.float32([200, 190, 190]) + 40 * shade, rng.uniform(0.6, 1.6)
    canvas = np.zeros((2 * HEIGHT, 2 * WIDTH), np.uint8)
    for _ in range(hairs):
        thickness = round(width * rng.uniform(0.6, 1.2))
        _draw_line(canvas, hair_line(combing, rng), round(rng.uniform(120, 235)), thickness)
    return _overlay(image, colour, cv2.GaussianBlur(_halved(canvas), (0, 0), 0.45))


def hair_line(combing: float, rng: Generator) -> ndarray:
    """Return one curved hair as a polyline (24, 2) in half pixels."""
    heading, length = combing + rng.normal(0, 0.35), min(rng.lognormal(5.9, 0.5), 900.0)
    along = np.array([np.cos(heading), np.sin(heading)])
    t = np.linspace(-1, 1, 24)[:, None]
    bend = rng.normal(0, 0.07) * (1 - t**2) + rng.normal(0, 0.015) * np.sin(3 * t)
    middle = rng.uniform(0, 2 * np.array([WIDTH, HEIGHT]))
    return middle + length * (0.5 * along * t + bend * np.array([-along[1], along[0]]))


def overlay_bubbles(
    image: ndarray, bubbles: int, reflections: int, rng: Generator
) -> tuple[ndarray, ndarray]:
    """Draw air bubbles and gel reflections over an image; return it and their mask."""
    size = 2 * np.array([WIDTH, HEIGHT])
    bright, rim = (np.zeros(size[::-1], np.uint8) for _ in range(2))
    middle = rng.uniform(0, size)
    for _ in range(bubbles):
        centre = tuple(np.round(middle + rng.normal(0, 120, 2)).astype(int).tolist())
        radius, turn = int(np.clip(rng.lognormal(2.3, 0.5), 5, 36)), rng.uniform(0, 360)
        cv2.circle(rim, centre, radius, 110, 2, cv2.LINE_AA)
        cv2.circle(bright, centre, radius - 3, 50, -1, cv2.LINE_AA)
        cv2.ellipse(bright, centre, (radius - 3,) * 2, turn, 0, 110, 200, 2, cv2.LINE_AA)
        glint = tuple(c + round(0.5 * radius * rng.uniform(-1, 1)) for c in centre)
        cv2.circle(bright, glint, max(1, radius // 6), 245, -1, cv2.LINE_AA)
    streak, middle = rng.uniform(0, 3.14), rng.uniform(0, size)
    for _ in range(reflections):
        length, angle = rng.lognormal(1.6, 0.7), streak + rng.normal(0, 0.25)
        ends = np.outer([-1, 1], length * np.array([np.cos(angle), np.sin(angle)]))
        ends = middle + rng.normal(0, 110, 2) + ends
        _draw_line(bright, ends, round(rng.uniform(150, 240)), int(rng.integers(1, 5)))
    image, rim_mask = _overlay(image, np.float32([70, 50, 50]), _halved(rim))
    glare = cv2.GaussianBlur(_halved(bright), (0, 0), 0.5)
    image, bright_mask = _overlay(image, np.float32([250, 246, 250]), glare)
    return image, rim_mask | bright_mask


def ruler_layer(rng: Generator) -> ndarray:
    """Return opacity of a ruler engraved in the contact plate, along one side of the frame."""
    canvas = np.zeros((2 * HEIGHT, 2 * WIDTH), np.uint8)
    pitch, offset, tilt = rng.uniform(10, 18), rng.uniform(8, 52), rng.normal(0, 0.02)
    at_side, far = rng.random() < 0.6, rng.random() < 0.5
    for number, position in enumerate(np.arange(rng.uniform(0, 10), 2 * WIDTH, pitch)):
        length = 28 if number % 10 == 0 else 20 if number % 5 == 0 else 12
        ends = np.array([[position, offset], [position, offset + length]]) + [0, tilt * position]
        ends = ends[:, ::-1] if at_side else ends
        ends = 2 * np.array([WIDTH, HEIGHT]) - ends if far else ends
        _draw_line(canvas, ends, 255, 2)
    return rng.uniform(0.35, 0.75) * _halved(canvas)


# Noise and small tools ----------------------------------------------------------------------------


def noise_field(at: ndarray, scale: float, rng: Generator, rough: bool = False) -> ndarray:
    """Return noise of mean 0 and deviation 1 at skin coordinates; large blobs measure `scale`."""
    u, v = _scattered(at, 32 / scale, 512, rng)
    return cv2.remap(_noise_tile(rough), u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def warped(at: ndarray, scale: float, reach: float, rng: Generator) -> ndarray:
    """Return skin coordinates displaced by noise of standard deviation `reach`."""
    return at + reach * np.stack([noise_field(at, scale, rng), noise_field(at, scale, rng)])


def honeycomb(
    at: ndarray, cell: float, disorder: float, rng: Generator
) -> tuple[ndarray, ndarray, ndarray]:
    """Return distances to the nearest wall and centre, in units of `cell`, and a number per cell.

    The number is uniform in [0, 1] and the same in the whole cell; `disorder` bends the comb.
    """
    bent = warped(at, 6 * cell, (0.3 + 1.2 * disorder) * cell, rng)
    u, v = _scattered(bent, 32 / cell, 1024, rng)
    return cv2.split(cv2.remap(_cell_tile(), u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP))


def ragged_spot(
    at: ndarray, traits: Traits, size: float, strength: float, rng: Generator
) -> ndarray:
    """Return one soft, ragged, off-centre spot of relative `size`, from 0 to `strength`."""
    if not strength:
        return np.zeros((HEIGHT, WIDTH), np.float32)
    angle, reach = rng.uniform(0, 6.28), traits.radius * rng.uniform(0.1, 0.7)
    x, y = warped(at, 0.4 * traits.radius, 0.18 * traits.radius, rng)
    x, y = x - reach * math.cos(angle), y - reach * math.sin(angle)
    return strength * _step(1 - np.hypot(x, y) / (size * traits.radius), rng.uniform(0.2, 0.6))


def disc_layer(centres: ndarray, radii: ndarray, values: ndarray, camera: ndarray) -> ndarray:
    """Return discs on the skin in camera view, shape (300, 400), values up to 1.25."""
    layer = np.zeros((HEIGHT, WIDTH), np.uint8)
    zoom = 1 / np.sqrt(abs(np.linalg.det(camera[:, :2])))
    corners = np.round(16 * to_pixels(centres, camera)).astype(int).tolist()
    for centre, radius, value in zip(corners, zoom * radii, values, strict=True):
        cv2.circle(layer, centre, round(16 * radius), round(200 * value), -1, cv2.LINE_AA, 4)
    return layer.astype(np.float32) / 200


def to_pixels(points: ndarray, camera: ndarray) -> ndarray:
    """Return the pixels (column, row) of points (n, 2) on the skin."""
    return (points - camera[:, 2]) @ np.linalg.inv(camera[:, :2]).T


def _step(value: ndarray, width: float | ndarray) -> ndarray:
    """Return a smooth step from 0 to 1 around zero."""
    return 0.5 + 0.5 * np.tanh(value / width)


def _blend(image: ndarray, colour: ndarray, opacity: ndarray) -> ndarray:
    return image + opacity[..., None] * (colour - image) if opacity.any() else image


def _overlay(image: ndarray, colour: ndarray, opacity: ndarray) -> tuple[ndarray, ndarray]:
    """Blend in a colour where the plate is lit; return the image and where it visibly changed."""
    lit = cv2.blur(image[..., 0], (9, 9)) > 16  # not in the dark corners
    result = _blend(image, colour, opacity * lit)
    red, green, blue = cv2.split(cv2.absdiff(result, image))
    return result, np.maximum(np.maximum(red, green), blue) > 10


def _draw_line(canvas: ndarray, points: ndarray, shade: int, thickness: int) -> None:
    knots = np.round(16 * points).astype(np.int32)
    cv2.polylines(canvas, [knots], False, shade, max(1, thickness), cv2.LINE_AA, 4)


def _halved(canvas: ndarray) -> ndarray:
    """Return a canvas drawn at double size as values in [0, 1], shape (300, 400)."""
    return cv2.resize(canvas, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) / np.float32(255)


def _scattered(at: ndarray, texels: float, size: int, rng: Generator) -> ndarray:
    """Turn and shift coordinates at random and scale them to texels of a tile."""
    angle, du, dv = rng.uniform(0, [6.28, size, size]).tolist()
    cos, sin = texels * math.cos(angle), texels * math.sin(angle)
    return np.stack([cos * at[0] - sin * at[1] + du, sin * at[0] + cos * at[1] + dv])


@lru_cache(maxsize=2)
def _noise_tile(rough: bool) -> ndarray:
    """Return a tile of noise with 16 large blobs a side, shape (512, 512)."""
    noise = np.fft.rfft2(np.random.default_rng(0).normal(size=(512, 512)))
    rows, columns = np.fft.fftfreq(512, 1 / 512)[:, None], np.fft.rfftfreq(512, 1 / 512)
    slope = -1.0 if rough else -1.6
    tile = np.fft.irfft2(noise * (rows**2 + columns**2 + 16**2) ** slope)
    return ((tile - tile.mean()) / tile.std()).astype(np.float32)


@lru_cache(maxsize=1)
def _cell_tile() -> ndarray:
    """Return a tile of 32 x 36 jittered hexagons, shape (1024, 1024, 3); see `honeycomb`."""
    rng, margin = np.random.default_rng(0), 64
    row, column = np.indices((36, 32)).reshape(2, -1)
    points = np.column_stack([32 * column + 16 * (row % 2), 1024 / 36 * row])
    points = np.round(points + rng.normal(0, 3.5, points.shape)).astype(int) % 1024
    lots = np.zeros((1024, 1024), np.float32)
    lots[points[:, 1], points[:, 0]] = rng.uniform(0.01, 1, len(points))
    lots = np.pad(lots, margin, mode="wrap")
    centre, label = cv2.distanceTransformWithLabels(
        (lots == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    lot_of_label = np.zeros(label.max() + 1, np.float32)
    lot_of_label[label[lots > 0]] = lots[lots > 0]
    wall = (label != np.roll(label, 1, 0)) | (label != np.roll(label, 1, 1))
    edge = cv2.distanceTransform((~wall).astype(np.uint8), cv2.DIST_L2, 5)
    tile = np.dstack([edge / 32, centre / 32, lot_of_label[label]])
    return np.ascontiguousarray(tile[margin:-margin, margin:-margin], dtype=np.float32)
