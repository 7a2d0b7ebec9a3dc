"""Find near-duplicate images under different lesion_ids, and join their lesions into groups.

Two photographs of one lesion under two lesion_ids, or one file twice, can put the same lesion into
training and test. A perceptual hash misses cropped copies. So each image is described as a whole
and by parts, and parts of one image are looked up among all whole images:

1. Candidates. The low spatial frequencies of lightness and colour (a discrete cosine transform),
   without signs and with transposed pairs sorted, are the same for all eight flips and quarter
   turns; divided by the contrast, also for other brightness. A k-d tree finds the nearest whole
   images of each part. Each image has at most `CONFIRMED` candidates, so their number grows with
   n, not with n squared.
2. Confirmation. The fine textures of both images are correlated in the best two orientations and
   over small shifts: `similarity` is the highest correlation, 1 for the same image.
"""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import pandera.pandas as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from lib.preprocessing import decode, pipeline, threads

#: Smallest correlation of fine texture of a duplicate. Set by inspecting pairs of different lesions
#: in HAM10000: from 0.61 on they showed the same lesion, one of 0.57 did not; altered copies are
#: above 0.8 (reports/studies/leakage).
SAME_IMAGE = 0.6
#: Largest distance between descriptions of a candidate pair, and neighbours per part.
CANDIDATE_DISTANCE, NEIGHBOURS = 0.15, 6
#: The nearest candidates of one image, for one size of its parts, that are confirmed.
CONFIRMED = 6
#: Smallest correlation of low frequencies, in some orientation, of a candidate.
COARSE_FIT = 0.95
#: Sides of the thumbnails in pixels: in colour for candidates, in grey for confirmation.
COARSE, FINE = 64, 96
#: Side and step of the parts, in pixels of the coarse thumbnail. The smallest is 62 % of the side;
#: a closer crop is not found.
PARTS = ((64, 1), (58, 2), (52, 2), (46, 3), (40, 3))
FREQUENCIES = 8
DIMENSIONS = 32

#: `duplicates.csv`: one row a pair, the most similar first; `part` is the fraction of the first
#: image's side that the second one shows.
PAIRS_SCHEMA = pa.DataFrameSchema(
    {
        "image_id_1": pa.Column(str),
        "image_id_2": pa.Column(str),
        "lesion_id_1": pa.Column(str),
        "lesion_id_2": pa.Column(str),
        "dx_1": pa.Column(str),
        "dx_2": pa.Column(str),
        "similarity": pa.Column(float, pa.Check.in_range(-1, 1.001), coerce=True),
        "part": pa.Column(float, pa.Check.in_range(0, 1), coerce=True),
    },
    unique=["image_id_1", "image_id_2"],
    strict=True,
)


class Thumbnails(NamedTuple):
    """Small copies of n images; 21 kB each."""

    coarse: np.ndarray  # uint8, shape (n, COARSE, COARSE, 3), CIE Lab
    fine: np.ndarray  # uint8, shape (n, FINE, FINE), grey


def thumbnails(folder: Path, files: pd.Series) -> Thumbnails:
    """Make thumbnails of the central square of every image, in the order of `files`."""
    pairs = threads.map_files(lambda path: thumbnail(decode.read_image(folder / path)), files)
    return stack(pairs)


def thumbnail(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make the two thumbnails of an image."""
    square = pipeline.crop_square(image)
    fine = cv2.resize(square, (FINE, FINE), interpolation=cv2.INTER_AREA)
    coarse = cv2.resize(square, (COARSE, COARSE), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(coarse, cv2.COLOR_RGB2LAB), cv2.cvtColor(fine, cv2.COLOR_RGB2GRAY)


def stack(pairs: list[tuple[np.ndarray, np.ndarray]]) -> Thumbnails:
    """Stack the thumbnails of several images."""
    coarse, fine = zip(*pairs, strict=True)
    return Thumbnails(np.stack(coarse), np.stack(fine))


def find_pairs(images: Thumbnails) -> pd.DataFrame:
    """Find pairs of near-duplicates.

    Returns
    -------
    DataFrame
        `first`, `second` (rows of `images`, first < second), `similarity` and `part`, the most
        similar first.
    """
    columns = ["first", "second", "similarity", "part"]
    whole = _describe(images.coarse, COARSE, np.zeros((1, 2), int))[:, 0]
    project = _principal_axes(whole)
    tree = KDTree(project(whole))
    tables = []
    for side, step in PARTS:
        confirmed = _confirm(images, _candidates(images, tree, project, side, step), side)
        confirmed = confirmed[confirmed["similarity"] >= SAME_IMAGE]
        tables.append(confirmed.assign(part=side / COARSE)[columns])
    order = ["similarity", "first", "second"]
    table = pd.concat(tables).astype({"first": int, "second": int})
    table = table.drop_duplicates(["first", "second"])  # the largest part counts
    return table.sort_values(order, ascending=[False, True, True], ignore_index=True)


def name_pairs(pairs: pd.DataFrame, metadata: pd.DataFrame) -> pd.DataFrame:
    """Replace row numbers by ids and classes.

    Parameters
    ----------
    metadata : DataFrame
        One row a thumbnail, in their order.

    Returns
    -------
    DataFrame
        `PAIRS_SCHEMA`.
    """
    named = {
        f"{column}_{i}": metadata[column].to_numpy()[pairs[side]]
        for column in ("image_id", "lesion_id", "dx")
        for i, side in enumerate(("first", "second"), start=1)
    }
    scores = pairs[["similarity", "part"]].round(3).reset_index(drop=True)
    return PAIRS_SCHEMA.validate(pd.DataFrame(named).astype(str).join(scores))


def join(metadata: pd.DataFrame, pairs: pd.DataFrame, group_by: str = "lesion_id") -> pd.Series:
    """Join lesions that share an image or a patient into groups.

    Parameters
    ----------
    metadata : DataFrame
        `image_id`, `lesion_id` and the column `group_by`, in which values may be missing.
    pairs : DataFrame
        `PAIRS_SCHEMA`.
    group_by : str
        `split.group_by`.

    Returns
    -------
    Series of str
        `group_id` of each image, indexed by image_id: the first lesion_id of its group.
    """
    names, lesion = np.unique(metadata["lesion_id"].astype(str), return_inverse=True)
    place = pd.Series(np.arange(len(names)), index=names)
    known = metadata.dropna(subset=group_by)
    first = known.groupby(group_by)["lesion_id"].transform("first")
    ends = [*pairs["lesion_id_1"], *known["lesion_id"]], [*pairs["lesion_id_2"], *first]
    edges = tuple(place[part].to_numpy() for part in ends)
    graph = coo_array((np.ones(len(edges[0])), edges), shape=(len(names), len(names)))
    _, group = connected_components(graph, directed=False)
    first = pd.Series(names).groupby(group).transform("min").to_numpy()
    return pd.Series(first[lesion], index=metadata["image_id"].to_numpy(), name="group_id")


# ------------------------------------------------------------------------------------- details


def _candidates(images, tree, project, side, step) -> pd.DataFrame:
    """Look up every part of `side` pixels among the whole images; return each pair's best part."""
    reach = range(0, COARSE - side + 1, step)
    corners = np.array([(top, left) for top in reach for left in reach])
    parts = []
    for start in range(0, len(images.coarse), 200):
        described = project(_describe(images.coarse[start : start + 200], side, corners))
        distance, second = tree.query(
            described, k=NEIGHBOURS, distance_upper_bound=CANDIDATE_DISTANCE, workers=-1
        )
        first, corner, place = np.nonzero(np.isfinite(distance))
        table = {
            "part_of": first + start,
            "whole": second[first, corner, place],
            "top": corners[corner, 0],
            "left": corners[corner, 1],
            "distance": distance[first, corner, place],
        }
        parts.append(pd.DataFrame(table))
    pairs = pd.concat(parts)
    pairs = pairs[pairs["part_of"] != pairs["whole"]]
    pairs[["first", "second"]] = np.sort(pairs[["part_of", "whole"]], axis=1)
    pairs = pairs.sort_values("distance", kind="stable").drop_duplicates(["first", "second"])
    return pairs[pairs.groupby("part_of").cumcount() < CONFIRMED]


def _confirm(images: Thumbnails, candidates: pd.DataFrame, side: int) -> pd.DataFrame:
    """Return the candidates that fit in some orientation, with `similarity`."""
    fits = _fits(images.coarse, candidates, side)
    good = fits.max(axis=1, initial=-1) >= COARSE_FIT
    candidates, fits = candidates[good], fits[good]
    best = np.argsort(-fits, axis=1)[:, :2]
    turns = [
        [TURNS[i] for i in row if fit[i] >= COARSE_FIT] for row, fit in zip(best, fits, strict=True)
    ]
    corners = np.rint(candidates[["top", "left"]] * FINE / COARSE).astype(int)
    size, margin = round(side * FINE / COARSE), FINE // 12

    def similarity(row):
        part_of, whole, (top, left), turns = row
        part = images.fine[part_of, top : top + size, left : left + size]
        if size != FINE:
            part = cv2.resize(part, (FINE, FINE), interpolation=cv2.INTER_LINEAR)
        part = _texture(part)[margin:-margin, margin:-margin]
        whole = _texture(images.fine[whole])
        turned = [_turned(part, turn) for turn in turns]
        return max(cv2.matchTemplate(whole, t, cv2.TM_CCOEFF_NORMED).max() for t in turned)

    rows = zip(candidates["part_of"], candidates["whole"], corners.to_numpy(), turns, strict=True)
    return candidates.assign(similarity=np.array(threads.map_files(similarity, rows), float))


def _describe(coarse: np.ndarray, side: int, corners: np.ndarray) -> np.ndarray:
    """Describe parts of images; float32, shape (images, corners, features)."""
    lightness, *color = np.moveaxis(_spectra(coarse, side, corners), 2, 0)
    u, v = np.triu_indices(FREQUENCIES)
    low = (u + v > 0) & (u + v <= FREQUENCIES - 2)
    u, v = u[low], v[low]

    def invariant(spectrum):
        one, other = np.abs(spectrum[..., u, v]), np.abs(spectrum[..., v, u])
        return np.concatenate([np.minimum(one, other), np.maximum(one, other)], axis=-1)

    features = [invariant(lightness), *(0.5 * invariant(channel) for channel in color)]
    contrast = np.linalg.norm(features[0], axis=-1, keepdims=True) + 1
    return np.concatenate(features, axis=-1) / contrast


def _spectra(coarse: np.ndarray, side: int, corners: np.ndarray) -> np.ndarray:
    """Return the cosine transform of every part, float32, (images, corners, channels, 8, 8)."""
    offsets = np.unique(corners)
    bases = _bases(side)[offsets].reshape(-1, COARSE)
    planes = np.moveaxis(coarse, 3, 1).astype(np.float32)
    blocks = (bases @ planes @ bases.T).reshape(
        len(coarse), 3, len(offsets), FREQUENCIES, len(offsets), FREQUENCIES
    )
    top, left = np.searchsorted(offsets, corners).T
    return np.moveaxis(blocks[:, :, top, :, left], 0, 1)


def _bases(side: int) -> np.ndarray:
    """Return cosine waves over `side` pixels from each offset on, (offsets, 8, COARSE)."""
    at = np.arange(side) + 0.5
    waves = np.cos(np.pi * np.arange(FREQUENCIES)[:, None] * at / side) / side
    bases = np.zeros((COARSE - side + 1, FREQUENCIES, COARSE), np.float32)
    for offset, basis in enumerate(bases):
        basis[:, offset : offset + side] = waves
    return bases


def _principal_axes(features: np.ndarray):
    """Return a function that projects descriptions on the principal axes of `features`."""
    sample = features[:: 1 + len(features) // 20_000]
    mean = sample.mean(axis=0)
    axes = np.linalg.svd(sample - mean, full_matrices=False)[2][:DIMENSIONS].T
    return lambda vectors: ((vectors - mean) @ axes).astype(np.float32)


#: The eight flips and quarter turns: transposed or not, then turned over up-down, left-right.
TURNS = [(t, y, x) for t in (False, True) for y in (False, True) for x in (False, True)]


def _fits(coarse: np.ndarray, candidates: pd.DataFrame, side: int) -> np.ndarray:
    """Correlate the low frequencies of each part with the whole in all eight orientations.

    Of the lightness; float, shape (candidates, 8).
    """
    bases, (whole_basis,) = _bases(side), _bases(COARSE)
    u, v = np.indices((FREQUENCIES, FREQUENCIES))
    fits = []
    for start in range(0, len(candidates), 1000):
        rows = candidates.iloc[start : start + 1000]
        part, whole = (
            coarse[rows[name], ..., 0].astype(np.float32) for name in ("part_of", "whole")
        )
        part = bases[rows["top"]] @ part @ np.swapaxes(bases[rows["left"]], 1, 2)
        whole = whole_basis @ whole @ whole_basis.T
        for spectrum in (part, whole):
            spectrum[:, 0, 0] = 0  # the mean
            spectrum /= np.linalg.norm(spectrum, axis=(1, 2), keepdims=True) + 1e-6
        turned = (
            (np.swapaxes(part, 1, 2) if t else part) * (-1.0) ** (u * y + v * x)
            for t, y, x in TURNS
        )
        fits.append(np.stack([(spectrum * whole).sum(axis=(1, 2)) for spectrum in turned], axis=1))
    return np.concatenate(fits) if fits else np.zeros((0, len(TURNS)))


def _turned(texture: np.ndarray, turn: tuple) -> np.ndarray:
    transposed, over_y, over_x = turn
    texture = texture.T if transposed else texture
    return np.ascontiguousarray(texture[:: -1 if over_y else 1, :: -1 if over_x else 1])


def _texture(gray: np.ndarray) -> np.ndarray:
    """Return the structure finer than 2.5 pixels, normalised to a local contrast of about 1."""
    gray = gray.astype(np.float32)
    fine = gray - cv2.GaussianBlur(gray, (0, 0), 2.5)
    return fine / (np.sqrt(cv2.GaussianBlur(fine * fine, (0, 0), 5)) + 3)
