"""Where the recordings and samples are. They are never copied into the project."""

import os
from pathlib import Path

import pytest


def _absent(sentence: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(sentence)
    pytest.skip(sentence)


def vectors(area: str) -> Path:
    """The vector directory of `area`; skips the test (fails it with CI=true) where the vectors are absent."""
    root = Path(os.environ.get("SKYFED_VECTORS", Path(__file__).parents[3] / "shared" / "vectors"))
    folder = root / area
    if not folder.is_dir():
        _absent(f"the vectors of '{area}' are not at {folder}; set SKYFED_VECTORS to the folder that holds them")
    return folder
