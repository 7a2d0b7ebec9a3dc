"""Compiled functions: their code is kept, and where it cannot be, they work all the same."""

import os
import subprocess
import sys

import numba.core.caching
import numpy as np

from lib import paths
from lib.preprocessing.compiled import compiled

#: Prints how often machine code was found that had been kept, and how often it was made.
CHILD = """
import numpy as np
from lib.preprocessing import hair
hair.hair_mask(np.zeros((300, 300, 3), np.uint8))
kept = hair._line_contrast.stats
print(sum(kept.cache_hits.values()), sum(kept.cache_misses.values()))
"""


def double(values):
    return 2 * values.sum()


def test_machine_code_is_kept_from_process_to_process(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", CHILD]
    said = [
        subprocess.run(
            command, cwd=paths.ROOT, env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert said == [["0", "1"], ["1", "0"]]


def test_a_place_that_cannot_be_written_to_is_no_error(monkeypatch):
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    assert compiled(double)(np.arange(4)) == 12
