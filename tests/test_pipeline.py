"""The array of a run's images."""

import numpy as np
import pytest

from lib import datasets, paths, pipeline, preprocessing


@pytest.fixture
def index(run, data_folder):
    metadata = datasets.read_metadata(data_folder)
    files = datasets.find_images(data_folder, metadata["image_id"])
    groups = metadata.set_index("image_id")["lesion_id"]
    return datasets.build_index(metadata, files, groups, run).head(6)


def test_row_i_of_the_array_is_row_i_of_the_index(run, index, data_folder):
    pipeline.write_images(index, data_folder, run)
    images = pipeline.open_images(index, run)
    assert images.shape == (6, 256, 256, 3)
    for i, path in enumerate(index["path"]):
        expected = preprocessing.preprocess_image(
            datasets.read_image(data_folder / path), run.preprocessing
        )
        np.testing.assert_array_equal(images[i], expected)


def test_an_array_made_with_other_settings_is_refused(run, index, data_folder):
    pipeline.write_images(index, data_folder, run)
    settings = run.preprocessing.model_copy(update={"remove_hair": False})
    with pytest.raises(ValueError, match="made with other preprocessing"):
        pipeline.open_images(index, run.model_copy(update={"preprocessing": settings}))
    with pytest.raises(ValueError, match="made with other image_ids_sha256|made with other shape"):
        pipeline.open_images(index.iloc[::-1], run)


def test_a_broken_image_leaves_no_array_behind(run, index, data_folder, tmp_path):
    broken = index.assign(path=[*index["path"].iloc[:-1], "README.md"])
    with pytest.raises(ValueError, match=r"README\.md: not an image"):
        pipeline.write_images(broken, data_folder, run)
    assert list(paths.run_folder(run.name).iterdir()) == []
