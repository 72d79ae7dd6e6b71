"""Text that comes from outside, made safe to show. No imports, so that every layer may use it."""


def one_line(text: str, limit: int = 500) -> str:
    """`text` on one line, without control characters, cut to `limit` characters (an ellipsis marks the cut)."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    clean = " ".join(clean.split())
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def shown(value: object, limit: int = 120) -> str:
    """`value` quoted for an error message: one line, bounded, unmistakably a value."""
    return f"'{one_line(str(value), limit)}'"


def duration(seconds: float) -> str:
    """`38 s`, `12 min`, `2.5 h`, `1 234 h` (a narrow no-break space): usage spans seconds of a first try and years."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{round(whole / 60)} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 1000 else f"{hours:,.0f} h".replace(",", "\u202f")


def plural(count: int, noun: str, nouns: str = "") -> str:
    """`1 site`, `2 sites`; `nouns` where the plural is irregular."""
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"
