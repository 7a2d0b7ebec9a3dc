"""Compiled functions: their code is kept, and where it cannot be, they work all the same."""

import numba.core.caching
import numpy as np

from lib import artefacts
from lib.compiled import compiled


def double(values):
    return 2 * values.sum()


def test_machine_code_is_kept_from_process_to_process():
    artefacts.hair_mask(np.zeros((256, 256, 3), np.uint8))
    assert artefacts._hair.stats.cache_path
    hits, misses = artefacts._hair.stats.cache_hits, artefacts._hair.stats.cache_misses
    assert sum(hits.values()) + sum(misses.values()) > 0, "looked for, and found or made"


def test_a_place_that_cannot_be_written_to_is_no_error(monkeypatch):
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    assert compiled(double)(np.arange(4)) == 12
