"""A position in the value of an OCCI text field. Every step moves forward, so reading takes linear time. Sans-IO."""

import re

from skyfed.core.errors import Invalid, TooLarge
from skyfed.core.text import shown

NAME = re.compile(r"[A-Za-z0-9_.:-]+", re.ASCII)
"""Attribute and parameter names; one character class, so that it cannot backtrack."""
EXCERPT = 40
"""Characters of the input that an error shows."""
_SEPARATOR = re.compile(r"[;,]")
_MAX_NAME = 256


class Scanner:
    """A position in a field's value. Every step moves forward: linear time."""

    def __init__(self, text: str, field: str) -> None:
        self._text = text
        self._field = field
        self._at = 0
        self._space()

    def at_end(self) -> bool:
        return self._at >= len(self._text)

    def at_value_end(self) -> bool:
        """At the end of one of several comma-separated values (a trailing `;` came before)."""
        return self.at_end() or self._text[self._at] == ","

    def take(self, char: str) -> bool:
        """Step over `char` and the blanks around it, if it is next."""
        if not self._text.startswith(char, self._at):
            return False
        self._at += len(char)
        self._space()
        return True

    def next_value(self) -> None:
        """Step over the comma before the next value. Raises Invalid where something else stands."""
        if not self.at_end() and not self.take(","):
            raise self.wrong("';', ',' or the end")

    def name(self, what: str) -> str:
        match = NAME.match(self._text, self._at)
        if match is None:
            raise self.wrong(what)
        if match.end() - self._at > _MAX_NAME:
            raise TooLarge(f"{what} in {self._field} is longer than {_MAX_NAME} characters", code="name_size")
        self._at = match.end()
        self._space()
        return match.group()

    def quoted(self) -> str | None:
        """A quoted string without its quotes; None if no quote is next."""
        if not self._text.startswith('"', self._at):
            return None
        start = at = self._at + 1
        quote = self._text.find('"', at)
        escaped = False
        while quote >= 0:
            slash = self._text.find("\\", at, quote)
            if slash < 0:
                break
            escaped = True
            at = slash + 2
            if quote < at:
                quote = self._text.find('"', at)
        if quote < 0:
            raise self.wrong("a string with its closing quote")
        self._at = quote + 1
        value = self._text[start:quote]
        self._space()
        return _unescaped(value) if escaped else value

    def bare(self, stop: str) -> str:
        """Unquoted text up to a separator in `stop` (`,` or `;,`)."""
        if stop == ",":
            end = self._text.find(",", self._at)
            end = len(self._text) if end < 0 else end
        else:
            match = _SEPARATOR.search(self._text, self._at)
            end = match.start() if match else len(self._text)
        value = self._text[self._at : end].rstrip()
        self._at = end
        return value

    def angle(self) -> str:
        """A URI reference in `<>`."""
        if not self._text.startswith("<", self._at):
            raise self.wrong("'<' and a URI")
        end = self._text.find(">", self._at)
        if end < 0:
            raise self.wrong("a URI with its closing '>'")
        uri = self._text[self._at + 1 : end].strip()
        self._at = end + 1
        self._space()
        if not uri or " " in uri or '"' in uri:
            raise self.wrong("a URI between '<' and '>'")
        return uri

    def wrong(self, expected: str) -> Invalid:
        """The error for what stands here."""
        here = shown(self._text[self._at :], EXCERPT) if not self.at_end() else "the end"
        return Invalid(
            f"in {self._field}, at character {self._at + 1}: expected {expected}, found {here}", code="syntax"
        )

    def _space(self) -> None:
        while self._at < len(self._text) and self._text[self._at] in " \t":
            self._at += 1


def _unescaped(value: str) -> str:
    """Resolve `\\"` and `\\\\`; any other backslash stands for itself, as senders of Windows paths expect."""
    parts = value.split("\\\\")
    return "\\".join(part.replace('\\"', '"') for part in parts)
