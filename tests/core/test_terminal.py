"""What commands print."""

import pytest

from skyfed.core.terminal import Progress


class Hand:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_progress_prints_a_line_every_two_seconds_and_the_first_and_last(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Hand()
    with Progress("sending", clock=clock) as progress:
        for percent in range(100):
            clock.now = percent * 0.05
            progress.step(f"{percent} %")
    assert capsys.readouterr().err.splitlines() == [
        "… sending", "… sending 40 %", "… sending 80 %", "✓ sending 99 % (5.0 s)",
    ]  # fmt: skip


def test_progress_that_stands_still_prints_nothing_new(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Hand()
    with Progress("waiting", clock=clock) as progress:
        for clock.now in (10.0, 20.0, 30.0):
            progress.step("for the network")
    assert capsys.readouterr().err.splitlines() == [
        "… waiting", "… waiting for the network", "✓ waiting for the network (30.0 s)",
    ]  # fmt: skip


def test_the_step_at_which_it_failed_is_said_however_soon_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Hand()
    with pytest.raises(RuntimeError), Progress("starting", clock=clock) as progress:  # noqa: PT012 - the step comes first
        progress.step("beta")
        raise RuntimeError
    assert capsys.readouterr().err.splitlines() == ["… starting", "✗ starting beta (0.0 s)"]
