"""Reading XML from outside: no DTD, no entities of its own, bounded in size, depth and number of elements."""

import xml.etree.ElementTree as ET
from xml.parsers import expat

from skyfed.core.errors import Invalid, TooLarge

MAX_DEPTH = 64
MAX_ELEMENTS = 1_000_000


def parse(data: bytes, *, max_bytes: int, max_depth: int = MAX_DEPTH, max_elements: int = MAX_ELEMENTS) -> ET.Element:
    """The root element of `data`. Raises Invalid (not well-formed, or it has a document type) and TooLarge."""
    if len(data) > max_bytes:
        raise TooLarge(f"the XML document has {len(data)} bytes; at most {max_bytes} are read", code="xml_size")
    builder = _Builder(max_depth, max_elements)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.tree.data
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise Invalid(f"the XML document is not well-formed: {error}", code="xml_syntax") from error
    return builder.tree.close()


class _Builder:
    """Builds the tree while counting."""

    def __init__(self, max_depth: int, max_elements: int) -> None:
        self.tree = ET.TreeBuilder()
        self._depth_left = max_depth
        self._elements_left = max_elements

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth_left -= 1
        self._elements_left -= 1
        if self._depth_left < 0 or self._elements_left < 0:
            raise TooLarge("the XML document is nested too deeply or has too many elements", code="xml_shape")
        self.tree.start(tag, attributes)

    def end(self, tag: str) -> None:
        self._depth_left += 1
        self.tree.end(tag)


def _refuse_doctype(*_: object) -> None:
    raise Invalid("the XML document has a document type declaration, which is refused", code="xml_doctype")


__all__ = ["MAX_DEPTH", "MAX_ELEMENTS", "parse"]
