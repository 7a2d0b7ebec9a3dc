"""What a notebook sees of the user's home and shell: nothing that could change a result."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib import paths

#: Variables that act on purpose: the backend, GPUs and threads. Executed notebooks name them.
ACTING = (
    "KERAS_BACKEND CUDA_VISIBLE_DEVICES OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS "
    "NUMBA_NUM_THREADS TF_NUM_INTRAOP_THREADS TF_NUM_INTEROP_THREADS"
).split()
#: Variables that pass and change no number: where things are, and who speaks which language.
HARMLESS = (
    "PATH HOME USER LOGNAME SHELL PWD TMPDIR LANG LANGUAGE TZ SKIN_CACHE SKIN_OUTPUT KERAS_HOME "
    "LD_LIBRARY_PATH LD_PRELOAD DYLD_LIBRARY_PATH PYTHONPATH VIRTUAL_ENV CONDA_PREFIX "
    "XDG_CACHE_HOME TF_CPP_MIN_LOG_LEVEL HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy "
    "no_proxy SSL_CERT_FILE REQUESTS_CA_BUNDLE PYTHONDONTWRITEBYTECODE PYTHONUNBUFFERED "
    "PYTHONWARNINGS COVERAGE_PROCESS_START"
).split()
#: The beginnings of variables that programs in use read: these are named if they are ignored.
READ = ("IPYTHON", "JAX", "JUPYTER", "KERAS", "MATPLOTLIB", "MPL", "NUMBA", "PAPERMILL", "PYTHON")
READ += ("CUDA", "OMP_", "OPENBLAS", "MKL_", "PYTORCH", "TF_", "TORCH", "XLA")
#: The start of the kernel: this Python, without packages of the user's home.
KERNEL = {
    "argv": [sys.executable, "-s", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
    "display_name": "Python 3 (ipykernel)",
    "language": "python",
}


@contextmanager
def isolated() -> Iterator[None]:
    """Start kernels within the block with this Python and without settings of the user.

    They have a kernel specification, folders of Jupyter and IPython, and a folder of matplotlib's
    settings of their own, and of the environment only `ACTING`, `HARMLESS` and `LC_*`. One line on
    standard error names what was ignored.
    """
    before = dict(os.environ)
    passed = {name for name in before if name in (*ACTING, *HARMLESS) or name.startswith("LC_")}
    ignored = sorted(name for name in before if name.startswith(READ) and name not in passed)
    if ignored:
        print(f"ignored in notebooks: {', '.join(ignored)}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="notebook-") as own:
        specification = Path(own, "kernels", "python3", "kernel.json")
        specification.parent.mkdir(parents=True)
        specification.write_text(json.dumps(KERNEL), encoding="utf-8")
        folders = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_PATH")
        values = dict.fromkeys((*folders, "JUPYTER_RUNTIME_DIR"), own)
        # its cache of fonts takes seconds to build, so it stays
        cache = paths.cache_folder()
        values["MPLCONFIGDIR"] = str(cache / "matplotlib")
        os.environ.clear()
        os.environ.update({name: before[name] for name in passed} | values)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def acting() -> dict[str, str]:
    """Return the variables that act on purpose and are set, and the name of the cache folder."""
    values = {name: os.environ[name] for name in ACTING if name in os.environ}
    return values | {"cache_folder": paths.relative(paths.cache_folder())}
