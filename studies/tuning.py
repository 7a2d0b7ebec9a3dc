"""The fine-tuning settings that were tried: archived results, which are not measured again here."""

import sys
from pathlib import Path

from studies import command

ARCHIVED = (
    "reports/studies/tuning holds archived results of full trainings, whose configuration was "
    "another than today's configs/ham10000.yaml (reports/studies/tuning/README.md)"
)


def measure(folder: Path) -> list[Path]:
    """Refuse to measure: each training takes hours, and its settings are configuration keys."""
    raise ValueError(ARCHIVED)


if __name__ == "__main__":
    sys.exit(command.main("Say how to repeat the archived trainings.", measure))
