"""What computes, told without loading a library."""

import platform
from pathlib import Path


def processor() -> str:
    """Return the processor's name as the system has it, or what kind it is."""
    file = Path("/proc/cpuinfo")
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
