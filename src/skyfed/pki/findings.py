"""What a check found out: stable code, a sentence, how bad it is, and which part it is about."""

from typing import Literal

import msgspec

Level = Literal["error", "warning", "info"]


class Finding(msgspec.Struct, frozen=True):
    """One thing found. `code` is stable and machine-readable; `where` names the certificate (or file) it is about."""

    code: str
    message: str
    level: Level = "error"
    where: str = ""
