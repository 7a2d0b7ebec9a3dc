"""Compile a function with Numba: `@compiled`."""

from collections.abc import Callable

from numba import njit


def compiled(function: Callable) -> Callable:
    """Compile a function at its first call, to run without the interpreter lock.

    The machine code is kept beside the function's file or in the user's cache folder; where
    neither can be written to, each process compiles anew.
    """
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # Numba's word for "no place to keep it"
        return njit(nogil=True)(function)
