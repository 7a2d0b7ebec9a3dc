"""Apply a function to many files, on one thread per core."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2


def map_files(function: Callable, files: Iterable) -> list:
    """Apply `function` to every file, on a thread for each core.

    OpenCV and what is compiled let go of Python's lock, so the threads do run side by side.

    Parameters
    ----------
    function : callable
        Of one file.
    files : iterable
        Files, or whatever `function` takes.

    Returns
    -------
    list
        What `function` returned, in the order of the files.

    Raises
    ------
    BaseException
        What `function` raised for the first file, in order, for which it did; files after it may
        have been left out.
    """
    files = list(files)
    results, errors = [None] * len(files), {}
    waiting = iter(range(len(files)))  # threads help themselves: none has to be woken for a file

    def begin_no_more() -> None:
        for _ in waiting:
            pass

    def work(_) -> None:
        for i in waiting:
            try:
                results[i] = function(files[i])
            except BaseException as error:
                errors[i] = error
                begin_no_more()

    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        try:
            list(pool.map(work, range(threads)))
        finally:  # interrupted
            begin_no_more()
    if errors:
        raise errors[min(errors)]
    return results


@contextlib.contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Keep OpenCV from starting threads of its own: every core has an image of its own."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
