"""Laying a federation out again keeps what its operator has changed."""

from pathlib import Path

from skyfed.core.clock import SystemClock
from skyfed.federation.layout import lay_out


def test_vos_that_an_operator_adds_to_vomses_stay(tmp_path: Path) -> None:
    places = lay_out(tmp_path, SystemClock())
    before = places.vomses.read_text()
    added = before.splitlines()[0].replace("demo.skyfed", "biology.example") + "\n"
    places.vomses.write_text(before + added)
    lay_out(tmp_path, SystemClock())
    assert places.vomses.read_text() == before + added
