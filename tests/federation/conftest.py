"""One federation for all tests of this folder: it takes half a minute to start."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from skyfed.federation.places import Places
from support import federation as fed


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    with fed.federation(tmp_path_factory.mktemp("fed") / "run") as running:
        yield running


@pytest.fixture(scope="session")
def alice(places: Places) -> dict[str, str]:
    """alice's environment, with a fresh proxy."""
    env = fed.environment(places, "alice")
    fed.skyfed("proxy", "init", "--voms", "demo.skyfed", env=env)
    return env


@pytest.fixture
def root(places: Places) -> Path:
    return places.directory
