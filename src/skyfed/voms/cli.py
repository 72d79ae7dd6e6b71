"""The nouns of this area: `skyfed proxy` (researchers) and `skyfed vo` (administrators)."""

from skyfed.voms.commands.proxy import proxy
from skyfed.voms.commands.vo import vo

__all__ = ["proxy", "vo"]
