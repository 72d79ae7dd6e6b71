"""Fixtures of the compute tests."""

import asyncio
from pathlib import Path

import pytest

from support.compute_site import HandClock, Run, Site, Story


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def site(tmp_path: Path, clock: HandClock) -> Site:
    """Not started: a story starts it."""
    return Site(tmp_path, clock=clock)


@pytest.fixture
def run(site: Site) -> Run:
    """Runs a story over a started site, and stops it whatever happens."""

    def play(story: Story) -> None:
        async def whole() -> None:
            try:
                await site.start()
                await story(site)
            finally:
                await site.stop()

        asyncio.run(asyncio.wait_for(whole(), 60))

    return play
