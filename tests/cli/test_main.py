"""The command: every noun is there, teaches, and errors are one line with an exit code."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from skyfed.cli.main import NOUNS, skyfed


@pytest.mark.parametrize("noun", sorted(NOUNS))
def test_every_noun_has_help_that_teaches(noun: str) -> None:
    result = CliRunner().invoke(skyfed, [noun, "--help"])
    assert result.exit_code == 0, result.output
    body = result.output.split("Options:")[0].split("Usage:")[1]
    assert len(body.splitlines()) >= 3, "help says nothing beyond the usage line"


def _commands(group: click.Command, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(group, click.Group):
        return [(path, group)]
    context = click.Context(group)
    found = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found += _commands(command, (*path, name))
    return found


def test_every_command_says_what_it_does_and_every_option_what_it_is_for() -> None:
    for path, command in _commands(skyfed):
        assert command.help, f"skyfed {' '.join(path)} has no help"
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name != "help" and not parameter.hidden:
                assert parameter.help, f"skyfed {' '.join(path)} {parameter.opts[0]} has no help"


def test_help_imports_no_area() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from skyfed.cli.main import skyfed;"
        "CliRunner().invoke(skyfed, ['--help']); print([m for m in sys.modules if m.startswith(('skyfed.voms', 'sqlalchemy'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_refusal_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "skyfed.cli.main", "status", "--dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"skyfed: there is no node below {tmp_path}/nodes; give --node DIR or --dir FEDERATION\n"


def test_wrong_usage_is_exit_code_2() -> None:
    assert CliRunner().invoke(skyfed, ["status", "--nonsense"]).exit_code == 2
    assert CliRunner().invoke(skyfed, ["nonsense"]).exit_code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_code_is_printed(shell: str) -> None:
    result = CliRunner().invoke(skyfed, ["completion", shell])
    assert result.exit_code == 0
    assert "_SKYFED_COMPLETE" in result.output
