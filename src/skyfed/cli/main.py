"""`skyfed`: one command over all areas. The table below alone knows them all; each is imported when used."""

import importlib
import logging
import os
import sys
from typing import Any

import click

from skyfed.core.errors import SkyfedError

# noun → where its command is, and the line `skyfed --help` shows without importing it.
NOUNS: dict[str, tuple[str, str]] = {
    "up": ("skyfed.federation.cli:up", "Start a whole federation on this machine."),
    "down": ("skyfed.federation.cli:down", "Stop it; no process is left."),
    "tour": ("skyfed.federation.cli:tour", "Do what a researcher does, step by step, against a running federation."),
    "env": ("skyfed.federation.cli:env", "Print the environment that any client needs, for eval."),
    "doctor": ("skyfed.federation.cli:doctor", "Check this machine, each fault with its remedy."),
    "status": ("skyfed.node.cli:status", "Every service of every node: health, address, since when, last error."),
    "config": ("skyfed.node.cli:config", "Show every setting of a node with its meaning."),
    "node": ("skyfed.node.cli:node", "Run one node in the foreground."),
    "backup": ("skyfed.node.cli:backup", "Save a node's directory while it runs."),
    "restore": ("skyfed.node.cli:restore", "Put a saved node's directory back."),
    "proxy": ("skyfed.voms.cli:proxy", "Proxy certificates with VOMS attributes: init, info, explain, destroy."),
    "vo": ("skyfed.voms.cli:vo", "Virtual organisations: members, groups, roles (administrator)."),
    "find": ("skyfed.infosys.cli:find", "Which sites offer what to my VO."),
    "vm": ("skyfed.occi.cli:vm", "Virtual machines: create, list, show, start, stop, ssh, delete."),
    "occi": ("skyfed.occi.cli:occi", "What an OCCI endpoint offers."),
    "image": ("skyfed.images.cli:image", "Signed image lists: publish, list, verify, subscriptions."),
    "site": ("skyfed.registry.cli:site", "Sites in the registry: apply, list, show."),
    "service": ("skyfed.registry.cli:service", "Services in the registry."),
    "infosys": ("skyfed.infosys.cli:infosys", "The information system: status, refresh (administrator)."),
    "accounting": ("skyfed.accounting.cli:accounting", "Usage: summaries, records, what waits to be sent."),
    "completion": ("skyfed.cli.completion:completion", "Print shell completion code."),
}


class Nouns(click.Group):
    """Commands by name, imported when they are asked for: `skyfed --help` stays instant and optional parts optional."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(NOUNS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        if name not in NOUNS:
            return None
        module, attribute = NOUNS[name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        command.name = name
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; a library that it lacks, now or while it runs, is named with what would install it."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] == "skyfed":
                raise
            raise click.ClickException(
                f"this command needs {error.name}, which the researcher's client does not install;"
                " install skyfed[site] or skyfed[operator]"
            ) from error

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in NOUNS.items()])


@click.group(cls=Nouns, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="skyfed")
def skyfed() -> None:
    """A federated research cloud: one identity, every site's virtual machines, images and usage.

    \b
    Researcher:     proxy init, find, vm create | list | ssh | delete, accounting summary
    Administrator:  status, config, site, image, vo   (each with --node DIR or $SKYFED_NODE)
    Everything on one machine:  up, tour, env, down
    """


def main() -> None:
    """The command line. Exit code 0 done, 1 refused or failed (one line says why), 2 wrong usage."""
    logging.basicConfig(level=os.environ.get("SKYFED_LOG", "WARNING"), format="%(levelname)s %(name)s: %(message)s")
    try:
        skyfed(prog_name="skyfed")
    except SkyfedError as error:
        click.echo(f"skyfed: {error.message}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        # The reader (head, less) has seen enough; Python must not complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
