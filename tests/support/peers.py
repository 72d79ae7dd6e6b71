"""Real peer programs. A test that needs one says so; without it the test is skipped, or fails with CI=true."""

import os
import shutil
from pathlib import Path

import pytest

_SBIN = ("/usr/sbin", "/sbin", "/usr/local/sbin")


def find(program: str) -> Path | None:
    """The program on PATH or in the system directories; None where it is not installed."""
    path = shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", ""), *_SBIN)))
    return Path(path) if path else None


def need(program: str) -> Path:
    """The path of `program`; skips the test (fails it with CI=true) where it is not installed."""
    path = find(program)
    if path is None:
        sentence = f"the peer program '{program}' is not installed; ./test installs it"
        if os.environ.get("CI") == "true":
            pytest.fail(sentence)
        pytest.skip(sentence)
    return path
