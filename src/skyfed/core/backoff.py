"""How long to wait before trying again."""

# 2**30 times any `first` is beyond any `last`; without a bound a float overflows in the end.
_MOST_DOUBLINGS = 30


def pause(failures: int, *, first: float, last: float) -> float:
    """Seconds to wait after `failures` earlier failures: `first`, twice that, and so on, at most `last`."""
    return min(last, first * 2.0 ** min(failures, _MOST_DOUBLINGS))
