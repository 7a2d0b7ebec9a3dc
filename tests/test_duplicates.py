"""Near-duplicates are found whatever was done to the copy, and join their lesions."""

import cv2
import numpy as np
import pandas as pd
import pytest

from lib.data import datasets, duplicates
from lib.preprocessing import decode


@pytest.fixture(scope="module")
def images(data_folder):
    metadata = datasets.read_metadata(data_folder)
    files = datasets.find_images(data_folder, metadata["image_id"])
    return [decode.read_image(data_folder / path) for path in files.iloc[:40]]


def thumbnails(images):
    return duplicates.stack([duplicates.thumbnail(image) for image in images])


def found(images):
    pairs = duplicates.find_pairs(thumbnails(images))
    return set(zip(pairs["first"], pairs["second"], strict=True))


def pairs_of(rows):
    columns = ["image_id_1", "image_id_2", "lesion_id_1", "lesion_id_2"]
    return pd.DataFrame(rows, columns=columns)


def test_there_are_eight_flips_and_turns_and_all_are_found(images):
    turned = [np.rot90(images[0], k) for k in range(4)]
    turned += [np.ascontiguousarray(each[:, ::-1]) for each in turned]
    pairs = found([*images[1:], *turned])
    first = len(images) - 1
    wanted = {(first + i, first + j) for i in range(8) for j in range(i + 1, 8)}
    # only the nearest of many copies of one image are looked at, which joins them all the same
    ends = pd.Series({i: i for i in range(first, first + 8)})
    for i, j in sorted(pairs & wanted):
        ends[ends == ends[j]] = ends[i]
    assert ends.nunique() == 1


@pytest.mark.parametrize("share", [0.9, 0.8, 0.7])
def test_a_closer_crop_is_found_too(images, share):
    def crop(image):
        height, width = (int(side * share) for side in image.shape[:2])
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        return image[top : top + height, left : left + width]

    wanted = {(i, len(images) + i) for i in range(len(images))}
    assert len(wanted & found([*images, *map(crop, images)])) >= 0.9 * len(wanted)


def test_the_same_lesion_drawn_as_another_view_or_another_lesion_is_no_copy(images):
    lesions = [image for image in images[::2]]
    for first, second in found(lesions):
        raise AssertionError(f"{first} and {second} are taken for one image")


def test_flat_images_do_not_break_it():
    flat = [np.full((50, 60, 3), shade, np.uint8) for shade in (0, 0, 128, 255)]
    duplicates.find_pairs(thumbnails(flat))
    assert found([flat[0]]) == set()


def test_similarity_is_one_for_the_same_image_and_pairs_come_in_order(images):
    pairs = duplicates.find_pairs(thumbnails([*images, images[7], images[3]]))
    assert list(pairs["first"][:2]) == [3, 7]
    np.testing.assert_allclose(pairs["similarity"][:2], 1, atol=1e-4)
    assert (pairs["first"] < pairs["second"]).all()


def test_the_search_is_repeatable(images):
    copies = [cv2.resize(image, (200, 150)) for image in images]
    once = duplicates.find_pairs(thumbnails([*images, *copies]))
    pd.testing.assert_frame_equal(once, duplicates.find_pairs(thumbnails([*images, *copies])))


def test_pairs_carry_ids_lesions_and_classes():
    metadata = pd.DataFrame(
        {"image_id": ["I1", "I2"], "lesion_id": ["L1", "L2"], "dx": ["nv", "mel"]}
    )
    pairs = pd.DataFrame({"first": [0], "second": [1], "similarity": [0.91234], "part": [1.0]})
    named = duplicates.name_pairs(pairs, metadata)
    assert named.iloc[0].to_dict() == {
        "image_id_1": "I1",
        "image_id_2": "I2",
        "lesion_id_1": "L1",
        "lesion_id_2": "L2",
        "dx_1": "nv",
        "dx_2": "mel",
        "similarity": 0.912,
        "part": 1.0,
    }


def test_no_pairs_are_a_table_too():
    metadata = pd.DataFrame({"image_id": ["I1"], "lesion_id": ["L1"], "dx": ["nv"]})
    random = np.random.default_rng(0).integers(0, 255, (3, 60, 60, 3), np.uint8)
    empty = duplicates.find_pairs(thumbnails(list(random)))
    named = duplicates.name_pairs(empty, metadata)
    assert len(named) == 0
    assert duplicates.join(metadata, named).to_dict() == {"I1": "L1"}


def test_pairs_join_lesions_into_groups_through_chains():
    """L1-L2 and L2-L3 by pairs; L3's other image comes along; L4 stays alone."""
    metadata = pd.DataFrame(
        {"image_id": ["a", "b", "c", "d", "e"], "lesion_id": ["L2", "L1", "L3", "L3", "L4"]}
    )
    pairs = pairs_of([("b", "a", "L1", "L2"), ("a", "c", "L2", "L3")])
    groups = duplicates.join(metadata, pairs)
    assert groups.to_dict() == {"a": "L1", "b": "L1", "c": "L1", "d": "L1", "e": "L4"}
