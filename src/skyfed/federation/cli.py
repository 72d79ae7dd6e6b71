"""`skyfed up | down | tour | env | doctor`: a whole federation on one machine."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from skyfed.core.clock import SystemClock
from skyfed.core.errors import NotFound
from skyfed.core.terminal import bold, emit, json_option, table
from skyfed.core.text import plural
from skyfed.federation.places import Places, default_directory

Command = Callable[..., Any]


def _dir(command: Command) -> Command:
    return click.option(
        "--dir",
        "directory",
        type=click.Path(path_type=Path, file_okay=False),
        help="Directory of the federation (default $SKYFED_DIR, else ./run).",
    )(command)


def _directory(directory: Path | None) -> Path:
    return directory.resolve() if directory else default_directory()


@click.command()
@_dir
@click.option("--detach", is_flag=True, help="Return when it is up instead of staying until Ctrl-C.")
@click.option("--no-tour", is_flag=True, help="Do not run the tour.")
def up(directory: Path | None, detach: bool, no_tour: bool) -> None:
    """Start a whole federation on this machine: central services and two sites, on loopback.

    Everything lies in one directory; run again, it is up in seconds with all data kept. Ctrl-C stops it.
    """
    from skyfed.federation.keeper import keeper_pid
    from skyfed.federation.up import bring_up, interrupted_by_signals, take_down

    with interrupted_by_signals():
        where = _directory(directory)
        ran_before = (where / "federation.toml").exists() and keeper_pid(Places.open(where)) is not None
        places = bring_up(where, SystemClock(), detach=detach or ran_before)
        ok = False
        try:
            ok = no_tour or _tour(places, as_json=False)
            click.echo(_welcome(places))
            if detach or ran_before:
                sys.exit(0 if ok else 1)
            click.echo("Ctrl-C stops everything.")
            _wait_for_keeper(places)
        except KeyboardInterrupt:
            click.echo("\nstopping", err=True)
        finally:
            if not (detach or ran_before):
                take_down(places)
    sys.exit(0 if ok else 1)


def _wait_for_keeper(places: Places) -> None:
    import time

    from skyfed.federation.keeper import keeper_pid

    while keeper_pid(places) is not None:
        time.sleep(1.0)
    raise NotFound(f"the federation has ended by itself; its log: {places.directory}/keeper.log")


@click.command()
@_dir
def down(directory: Path | None) -> None:
    """Stop the federation: machines first, then every process. All data stays."""
    from skyfed.federation.up import take_down

    ran, guests = take_down(Places.open(_directory(directory)))
    machines = f", {plural(guests, 'machine')} shut down" if guests else ""
    click.echo("stopped" + machines if ran else "it was not running" + machines)


@click.command()
@_dir
@click.option("--image", default="", help="Title of the image to start (default: the demo guest).")
@click.option(
    "--site", "sites", multiple=True, type=click.Choice(["alpha", "beta"]), help="Only this site; repeatable."
)
@json_option
def tour(directory: Path | None, image: str, sites: tuple[str, ...], as_json: bool) -> None:
    """Do what a researcher does, step by step, against a running federation.

    Proxy, discovery over LDAP, machine over OCCI, SSH, stop, delete, usage in the repository; at both sites. Each step
    says how to do it by hand. With --json one object a line and step. Exit code 0 only when every step holds.
    """
    if not _tour(Places.open(_directory(directory)), as_json=as_json, image=image, sites=sites):
        sys.exit(1)


def _tour(places: Places, *, as_json: bool, image: str = "", sites: tuple[str, ...] = ()) -> bool:
    from skyfed.federation.places import SITES
    from skyfed.federation.seed import GUEST_TITLE
    from skyfed.federation.tour import Tour

    results = []
    for result in Tour(places, SystemClock(), image=image or GUEST_TITLE, sites=sites or SITES).run():
        results.append(result)
        if as_json:
            click.echo(msgspec.json.encode(result))
        else:
            mark = click.style("✓", fg="green") if result.ok else click.style("✗", fg="red")
            click.echo(
                f"{mark} {bold(result.step)}  {result.seconds:.1f} s\n    {result.detail}\n    $ {result.by_hand}"
            )
    return all(result.ok for result in results)


def _welcome(places: Places) -> str:
    url = places.url
    rows = [
        ("portal", url("federation", "portal")),
        ("registry", f"{url('federation', 'registry')}/gocdbpi/public/?method=get_site_list"),
        ("information system", f"ldap://{places.ldap('federation')}"),
        ("image lists", f"{url('federation', 'images')}/lists"),
        ("accounting", f"{url('federation', 'accounting')}/v1/usage/today"),
        ("OCCI at alpha", url("alpha", "occi")),
        ("OCCI at beta", url("beta", "occi")),
    ]
    return "\n".join(
        [
            "",
            table(rows, ("SERVICE", "ADDRESS")),
            "",
            bold("Try"),
            *_on_path(),
            f'  eval "$(skyfed env --as alice --dir {places.directory})"',
            "  skyfed proxy init --voms demo.skyfed && skyfed proxy info",
            '  skyfed find image "Skyfed demo guest" --vo demo.skyfed',
            '  skyfed vm create --site ALPHA --image "Skyfed demo guest" --flavour tiny --title mine --wait \\',
            "    --ssh-key $SKYFED_SSH_KEY.pub",
            "  skyfed vm ssh --site ALPHA mine --identity $SKYFED_SSH_KEY -- uname -a",
            "  skyfed status",
        ]
    )


def _on_path() -> list[str]:
    """How a shell finds `skyfed`, where it does not yet: ./up keeps it in an environment of its own."""
    return [] if shutil.which("skyfed") else [f"  source {Path(sys.executable).with_name('activate')}"]


@click.command()
@_dir
@click.option("--as", "user", default="alice", show_default=True, help="Demo user: alice, bob or oscar.")
@json_option
def env(directory: Path | None, user: str, as_json: bool) -> None:
    """Print what any foreign client needs to know: eval "$(skyfed env --as alice)".

    Sets the credential, trust anchors, VOMS files and every address; ldapsearch, curl, openssl and the
    voms-proxy-init of C++ and Java then work.
    """
    from skyfed.federation.environment import as_shell, environment

    emit(environment(Places.open(_directory(directory)), user), as_json=as_json, human=as_shell)


@click.command()
@_dir
@json_option
def doctor(directory: Path | None, as_json: bool) -> None:
    """Check this machine and the federation on it: ports, clock, disk, programs, certificates, acceleration.

    Each fault comes with its remedy. Exit code 1 when there is a fault.
    """
    from skyfed.federation.doctor import examine

    where = _directory(directory)
    places = Places.open(where) if (where / "federation.toml").exists() else None
    findings = list(examine(places, where, SystemClock()))
    marks = {"ok": "ok", "warning": "WARNING", "fault": "FAULT"}
    emit(
        findings,
        as_json=as_json,
        human=lambda lines: table(
            [(marks[f.verdict], f.check, f.found, f.remedy) for f in lines], ("", "CHECK", "FOUND", "REMEDY")
        ),
    )
    if any(finding.verdict == "fault" for finding in findings):
        sys.exit(1)
