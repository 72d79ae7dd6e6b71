"""Options as voms-proxy-init has them: one dash and two dashes are equal, and the environment's places."""

import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from skyfed.core.errors import Invalid
from skyfed.core.text import shown

F = TypeVar("F", bound=Callable[..., Any])

GRID_SECURITY = Path("/etc/grid-security")


def option(name: str, *others: str, **settings: Any) -> Callable[[F], F]:
    """`--name`, also as `-name`, for scripts written for voms-proxy-init."""
    spellings = [f"{dashes}{spelling}" for spelling in (name, *others) for dashes in ("--", "-")]
    return click.option(*spellings, name.replace("-", "_"), **settings)


def path_option(name: str, text: str, *others: str) -> Callable[[F], F]:
    """An option that takes a file or directory."""
    return option(name, *others, type=click.Path(path_type=Path), help=text)


def trust_directory(given: Path | None) -> Path:
    """The option, $X509_CERT_DIR, or the system's directory."""
    return given or Path(os.environ.get("X509_CERT_DIR") or GRID_SECURITY / "certificates")


def vomsdir(given: Path | None) -> Path:
    """The option, $X509_VOMS_DIR, or the system's directory."""
    return given or Path(os.environ.get("X509_VOMS_DIR") or GRID_SECURITY / "vomsdir")


def user_files(cert: Path | None, key: Path | None) -> tuple[Path, Path]:
    """The options, $X509_USER_CERT and $X509_USER_KEY, or ~/.globus."""
    globus = Path.home() / ".globus"
    certificate = cert or Path(os.environ.get("X509_USER_CERT") or globus / "usercert.pem")
    return certificate, key or Path(os.environ.get("X509_USER_KEY") or globus / "userkey.pem")


def hours_minutes(text: str, what: str) -> timedelta:
    """`12:30` or `12`. Raises Invalid (`lifetime`)."""
    match = re.fullmatch(r"([0-9]{1,6})(?::([0-5]?[0-9]))?", text)
    if match is None:
        raise Invalid(f"{shown(text)} is no {what}; right is hours:minutes, such as 12:00", code="lifetime")
    return timedelta(hours=int(match[1]), minutes=int(match[2] or 0))
