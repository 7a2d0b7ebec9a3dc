"""Apply a function to many files, on one thread per core."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import cv2


def map_files(function: Callable, files: Iterable) -> list:
    """Apply `function` to every file and return the results in order.

    OpenCV and compiled code release Python's lock, so the threads run side by side. The first
    error, in the order of the files, is raised; files that no thread has begun are left out then.

    >>> map_files(len, ["a", "bcd"])
    [1, 3]
    """
    waiting, results, errors = iter(list(enumerate(files))), {}, {}

    def work():
        for i, file in waiting:  # whichever thread is free takes the next file
            try:
                results[i] = function(file)
            except BaseException as error:
                errors[i] = error
            if errors:
                return

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # Only as many tasks as threads: an interrupt while a task is submitted can block the pool
        workers = [pool.submit(work) for _ in range(os.cpu_count() or 1)]
        try:
            wait(workers)
        except BaseException as interrupt:
            errors[-1] = interrupt
    if errors:
        raise errors[min(errors)]
    return [results[i] for i in range(len(results))]


@contextlib.contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Keep OpenCV from starting threads of its own while every core has an image of its own."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
