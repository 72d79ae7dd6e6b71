"""How a benchmark reports: one JSON line a figure on stdout, progress on stderr."""

import json
import statistics
import sys
from collections.abc import Callable, Sequence


def emit(name: str, value: float, unit: str, peer: str | None = None, peer_value: float | None = None) -> None:
    """Print one figure. `ratio` is value / peer_value; the peer fields are null where this run measured no peer."""
    ratio = round(value / peer_value, 4) if peer_value else None
    line = {
        "name": name,
        "value": round(value, 6),
        "unit": unit,
        "peer": peer,
        "peer_value": round(peer_value, 6) if peer_value is not None else None,
        "ratio": ratio,
    }
    print(json.dumps(line), flush=True)


def progress(text: str) -> None:
    """Say on stderr what is going on."""
    print(text, file=sys.stderr, flush=True)


def interleaved(rounds: int, *measures: Callable[[], float]) -> list[float]:
    """Run the measures in turn, `rounds` times; the median of each. What else the machine does hits all alike."""
    samples: list[list[float]] = [[] for _ in measures]
    for number in range(rounds):
        # Every other round runs backwards, so that none is always the one after a pause.
        order: Sequence[int] = range(len(measures)) if number % 2 == 0 else range(len(measures) - 1, -1, -1)
        for index in order:
            samples[index].append(measures[index]())
        progress(f"round {number + 1} of {rounds}: " + ", ".join(f"{sample[-1]:.1f}" for sample in samples))
    return [statistics.median(sample) for sample in samples]
