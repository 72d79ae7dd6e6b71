"""`skyfed status | config show`: which node is meant, and settings as an administrator would write them."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from skyfed.node.cli import config, status
from skyfed.node.config import to_toml


@pytest.fixture
def federation(tmp_path: Path) -> Path:
    """A directory with the stopped nodes alpha and beta."""
    for name in ("alpha", "beta"):
        node = tmp_path / "nodes" / name
        node.mkdir(parents=True)
        tables = {
            "node": {"name": name, "role": "site", "site": name.upper()},
            "trust": {"certificates": "certificates", "vomsdir": "vomsdir"},
            "processes": {"site": ["compute"]},
            "services": {"compute": {"settings": {"flavours": {"tiny": {"cores": 1, "memory_mib": 160}}}}},
        }
        (node / "node.toml").write_text(to_toml(tables))
    return tmp_path


def run_status(*arguments: str, **environment: str) -> Result:
    cleared: dict[str, str | None] = {"SKYFED_DIR": None, "SKYFED_NODE": None}
    return CliRunner().invoke(status, arguments, env=cleared | environment)


def test_a_node_that_is_typed_counts_more_than_the_environment(federation: Path) -> None:
    beta = str(federation / "nodes" / "beta")
    said = run_status("--node", beta, SKYFED_DIR=str(federation))
    assert "beta" in said.output
    assert "alpha" not in said.output
    said = run_status(SKYFED_DIR=str(federation), SKYFED_NODE=beta)
    assert "alpha" in said.output


def test_without_any_word_the_federation_in_run_is_meant(federation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (federation / "nodes").rename(federation / "moved")
    (federation / "run").mkdir()
    (federation / "moved").rename(federation / "run" / "nodes")
    monkeypatch.chdir(federation)
    said = run_status()
    assert said.exit_code == 1  # both are down
    assert "alpha" in said.output
    assert "beta" in said.output


def test_settings_are_shown_as_json_without_what_is_left_out(federation: Path) -> None:
    arguments = ["show", "--node", str(federation / "nodes" / "alpha"), "--service", "compute"]
    said = CliRunner().invoke(config, arguments)
    assert 'services.compute.settings.flavours = {"tiny":{"cores":1,"memory_mib":160}}   (default: ' in said.output
    assert "services.compute.settings.capacity.vms = none\n" in said.output
