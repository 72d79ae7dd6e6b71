"""What commands print: for people by default, JSON with `--json`; progress on stderr."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
import msgspec

LINE_SECONDS = 2.0
"""Where there is no terminal, progress prints no two lines in less: a log is not filled with every percent."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
node_option = click.option(
    "--node",
    type=click.Path(path_type=Path),
    envvar="SKYFED_NODE",
    required=True,
    help="Directory of the node that runs the service (default $SKYFED_NODE).",
)


def emit(value: Any, *, as_json: bool, human: Callable[[Any], str] | None = None) -> None:
    """Print `value`: as JSON, or as `human` makes of it."""
    if as_json or human is None:
        click.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=_plain), indent=2).decode())
    elif text := human(value):
        click.echo(text)


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"JSON cannot hold {type(value)}")


def table(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """Columns as wide as their widest cell; the last column is not padded."""
    cells = [[str(c) for c in row] for row in (headers, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([bold(lines[0]), *lines[1:]])


def bold(text: str) -> str:
    """Bold where stdout is a terminal."""
    return click.style(text, bold=True) if sys.stdout.isatty() else text


class Progress:
    """A line on stderr that says what is going on and for how long; plain lines, at most one in LINE_SECONDS but the
    first and the last, where there is no terminal."""

    def __init__(self, what: str, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._quiet = quiet
        self._clock = clock
        self._began = clock()
        self._printed: float | None = None
        self._live = sys.stderr.isatty() and not quiet
        self._shown = ""

    def __enter__(self) -> Self:
        self.step("")
        return self

    def step(self, detail: str) -> None:
        """Show `detail` behind the name of what is going on; repeats are shown once. Without a terminal a step that comes
        too soon after a line is passed over; the last one is shown at the end."""
        text = f"{self._what} {detail}".rstrip()
        if self._quiet or text == self._shown:
            return
        self._shown = text
        now = self._clock()
        if self._live:
            click.echo(f"\r\x1b[K… {text} ({now - self._began:.0f} s)", err=True, nl=False)
        elif self._printed is None or now - self._printed >= LINE_SECONDS:
            self._printed = now
            click.echo(f"… {text}", err=True)

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        if self._quiet:
            return
        mark = "✓" if kind is None else "✗"
        start = "\r\x1b[K" if self._live else ""
        click.echo(f"{start}{mark} {self._shown or self._what} ({self._clock() - self._began:.1f} s)", err=True)
