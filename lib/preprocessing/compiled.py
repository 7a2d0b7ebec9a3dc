"""Compile a function with Numba: `@compiled`."""

from collections.abc import Callable

from numba import njit


def compiled(function: Callable) -> Callable:
    """Compile a function at its first call, to run without the interpreter lock.

    The machine code is cached beside the function's file or in the user's cache folder; where
    neither can be written to, each process compiles anew. The cache of a function is renewed when
    its own file changes, not when a compiled function that it calls in another file does: a
    compiled function must call only compiled functions of its own module.
    """
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # Numba found no place for the cache
        return njit(nogil=True)(function)
