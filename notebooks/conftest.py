"""What nbval needs before it executes a notebook."""

from lib import paths
from tools import external_test, synthetic

collect_ignore = ["conftest.py"]  # it has no docstring examples


def pytest_runtest_setup(item):
    """Predict the images from elsewhere before notebook 08, which reads what was predicted."""
    written = paths.run_folder("demo") / "external" / "external.json"
    if item.path.name == "08_external_test.ipynb" and not written.is_file():
        folder = paths.ROOT / "data" / "synthetic_elsewhere"
        if not folder.is_dir():
            synthetic.generate(folder, lesions=120, seed=8, elsewhere=True)
        external_test.predict_folder("demo", folder, "vgg16_fine_tuned", own=True)
