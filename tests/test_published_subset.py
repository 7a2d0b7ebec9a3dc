"""The images of the published run: chosen, divided and reduced again from a larger data set."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from lib import config, paths, tables
from lib.data import datasets, duplicates, splits
from lib.preprocessing import decode, pipeline

RUN = "configs/ham10000.yaml"
NO_PAIRS = pd.DataFrame(columns=["lesion_id_1", "lesion_id_2"])


def build(folder, run):
    metadata = datasets.read_metadata(folder)
    files = datasets.find_images(folder, metadata["image_id"])
    return datasets.build_index(metadata, files, duplicates.join(metadata, NO_PAIRS), run)


def with_file(run, file):
    return run.model_copy(update={"split": run.split.model_copy(update={"file": str(file)})})


@pytest.fixture
def drawn(run, data_folder):
    """A sample of the images, divided at random."""
    data = run.data.model_copy(update={"images_per_class": 12})
    return build(data_folder, run.model_copy(update={"data": data}))


@pytest.fixture
def listed(drawn, tmp_path):
    return tables.write_table(drawn[splits.COLUMNS], tmp_path / "split.csv")


def whole_ham10000():
    """Return the folder of all images of HAM10000, of whatever size."""
    for folder in (os.environ.get("HAM10000_DIR"), paths.ROOT.parent / "shared/ham10000_thumbs"):
        if folder and (Path(folder) / datasets.METADATA).is_file():
            if len(datasets.read_metadata(Path(folder))) == 10_015:
                return Path(folder)
    return pytest.skip("no whole HAM10000: neither HAM10000_DIR nor ../shared/ham10000_thumbs")


# ------------------------------------------------------------------------------------ the images


def test_listed_images_come_out_of_a_larger_data_set_with_their_split(
    run, data_folder, drawn, listed
):
    assert len(drawn) < len(datasets.read_metadata(data_folder))
    assert build(data_folder, with_file(run, listed)).equals(drawn)


def test_a_listed_image_that_is_not_there_is_an_error(run, data_folder, drawn, listed):
    table = drawn[splits.COLUMNS].copy()
    table.loc[3, "lesion_id"] = "HAM_0000000"
    tables.write_table(table, listed)
    image_id = table["image_id"][3]
    expected = rf"split.csv lists {len(drawn)} images; 1 of them .* {image_id}; expected"
    with pytest.raises(ValueError, match=expected):
        build(data_folder, with_file(run, listed))


def test_a_listed_group_in_two_splits_is_an_error(run, data_folder, drawn, listed):
    table = drawn[splits.COLUMNS].copy()
    group = table["group_id"].value_counts().idxmax()
    of_group = table.index[table["group_id"] == group]
    table.loc[of_group, "split"] = ["test", *["train"] * (len(of_group) - 1)]
    tables.write_table(table, listed)
    with pytest.raises(ValueError, match=rf"split.csv: group {group} is in 2 splits"):
        build(data_folder, with_file(run, listed))


def test_listed_folds_are_those_of_the_configuration(run, data_folder, listed):
    settings = with_file(run, listed)
    more = settings.split.model_copy(update={"folds": 9})
    with pytest.raises(ValueError, match=r"split.csv: found folds \[0, 1.*expected 0 to 8 \(split"):
        build(data_folder, settings.model_copy(update={"split": more}))


def test_an_index_of_a_list_that_was_changed_is_refused(run, data_folder, drawn, listed):
    settings = with_file(run, listed)
    datasets.write_index(build(data_folder, settings), settings)
    datasets.read_index(settings)
    listed.write_text(listed.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="index.csv was made with other split_file_sha256"):
        datasets.read_index(settings)


def test_images_are_listed_or_drawn_but_not_both(tmp_path):
    text = (paths.ROOT / RUN).read_text(encoding="utf-8")
    text = text.replace("\ndata:\n", "\ndata:\n  images_per_class: 20\n")
    file = tmp_path / "both.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"split\.file lists the images, so data\.images_per_"):
        config.load_config(file)


def test_the_published_split_comes_out_of_the_whole_of_ham10000():
    run, folder = config.load_config(RUN), whole_ham10000()
    manifest = paths.ROOT / "reports/ham10000/published/manifest.json"
    published = json.loads(manifest.read_text(encoding="utf-8"))
    assert splits.digest(build(folder, run)) == published["split_sha256"]


# ------------------------------------------------------------------------------------ the pixels


@pytest.fixture
def original():
    """A drawn picture of the size of a HAM10000 image, with detail that every reduction changes."""
    noise = np.random.default_rng(1).integers(0, 256, (450, 600, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (5, 5), 0)


@pytest.fixture
def settings(run):
    return run.preprocessing.model_copy(update={"stored_size": 224})


def test_an_original_becomes_the_image_that_its_stored_copy_becomes(original, settings):
    copy = cv2.resize(original[:, 75:525], (224, 224), interpolation=cv2.INTER_AREA)
    from_copy, from_original = (pipeline.preprocess_image(x, settings) for x in (copy, original))
    np.testing.assert_allclose(from_original, from_copy, atol=1)  # rounding
    unreduced = settings.model_copy(update={"stored_size": 0})
    assert np.ptp(pipeline.preprocess_image(original, unreduced) - from_copy.astype(int)) > 20


def test_a_mask_is_reduced_like_its_image(original):
    mask = original[..., 0] > 127
    copy = pipeline.preprocess_mask(mask, 224)
    from_copy = pipeline.preprocess_mask(copy, 256)
    assert (pipeline.preprocess_mask(mask, 256, stored_size=224) == from_copy).all()
    assert (pipeline.preprocess_mask(mask, 256) != from_copy).any()


@pytest.mark.parametrize("side", [150, 224])
def test_an_image_that_is_not_larger_is_not_reduced(side, original, settings):
    small = pipeline.crop_and_resize(original, side)
    unreduced = settings.model_copy(update={"stored_size": 0})
    expected = pipeline.preprocess_image(small, unreduced)
    assert (pipeline.preprocess_image(small, settings) == expected).all()


def test_the_stored_copies_show_the_central_square_of_the_whole_images(ham10000):
    """Images of 200 x 150 pixels show all of the original; some show hair with aliasing."""
    whole = paths.ROOT.parent / "shared" / "ham10000_thumbs"
    ids = datasets.read_metadata(ham10000)["image_id"][::20]
    places = [datasets.find_images(folder, ids) for folder in (ham10000, whole)]
    if len(places[1]) < len(ids):
        pytest.skip("no images of 200 x 150 pixels in ../shared/ham10000_thumbs")

    def correlation(image_id, shift=0):
        stored = pipeline.crop_and_resize(decode.read_image(ham10000 / places[0][image_id]), 150)
        picture = decode.read_image(whole / places[1][image_id])[:, 25 + shift : 175 + shift]
        return np.corrcoef(stored.ravel(), picture.ravel())[0, 1]

    assert {decode.read_image(ham10000 / path).shape for path in places[0]} == {(224, 224, 3)}
    centered = np.array([correlation(image_id) for image_id in ids])
    assert np.median(centered) > 0.995
    assert centered.mean() > 0.98
    assert (centered > 0.98).mean() > 0.95
    shifted = np.array([correlation(image_id, shift=3) for image_id in ids])
    assert (shifted < centered).mean() > 0.95
