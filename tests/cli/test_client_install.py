"""`pip install skyfed` alone is the researcher's client: proxy, find, vm, on Debian's own python3."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that holds Skyfed and its base dependencies, nothing else."""
    folder = tmp_path_factory.mktemp("client")
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    constraints = folder / "constraints.txt"
    pins = [line.split(" ")[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line]
    constraints.write_text("\n".join(pins))
    subprocess.run([*pip, "-c", str(constraints), "--only-binary=:all:", "--no-binary=skyfed", str(ROOT)], check=True)
    return folder / "bin" / "skyfed"


@pytest.mark.parametrize(
    "words",
    [
        ("proxy", "init"),
        ("proxy", "info"),
        ("find",),
        ("vm", "create"),
        ("vm", "ssh"),
        ("image", "verify"),
        ("accounting",),
    ],
)
def test_the_researchers_commands_work(client: Path, words: tuple[str, ...]) -> None:
    done = subprocess.run([str(client), *words, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_operators_command_says_what_to_install(client: Path) -> None:
    done = subprocess.run(
        [str(client), "config", "show", "--node", "/nonexistent"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "install skyfed[site] or skyfed[operator]" in done.stderr
