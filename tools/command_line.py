"""What the commands of this folder share: a message instead of a traceback, and an exit status."""

import sys
from collections.abc import Callable


def run_command(
    command: Callable[[], object],
    expected: tuple[type[Exception], ...] = (OSError, ValueError),
) -> int:
    """Run a command and return its exit status: 0, or 1 after an expected error.

    Parameters
    ----------
    command : callable
        Called without arguments.
    expected : tuple of exception types
        Errors whose message is all that a user needs; any other error keeps its traceback.
    """
    try:
        command()
    except expected as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0
