"""Text for people."""

import pytest

from skyfed.core.text import duration


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (38.4, "38 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (7200, "2.0 h"),
        (9000, "2.5 h"),
        (4_444_416, "1\u202f235 h"),
    ],
)
def test_durations_are_told_in_the_unit_that_fits(seconds: float, said: str) -> None:
    assert duration(seconds) == said
