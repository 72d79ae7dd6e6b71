"""Typed settings: a TOML file becomes a frozen msgspec struct, or an error naming file, key and what would be right."""

import tomllib
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from skyfed.core.errors import Invalid
from skyfed.core.text import shown

T = TypeVar("T")

MAX_SETTINGS_BYTES = 1 << 20


def setting(description: str) -> msgspec.Meta:
    """The explanation of a field, for `Annotated[type, setting("…")]`; `skyfed config show` prints it."""
    return msgspec.Meta(description=description)


def load(path: Path, kind: type[T]) -> T:
    """The settings in `path` as `kind`. Raises Invalid naming the file, the key and what would be right."""
    return convert(read_toml(path), kind, source=str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises Invalid naming the file and line."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SETTINGS_BYTES + 1)
    except OSError as error:
        raise Invalid(f"cannot read {path}: {error.strerror}", code="settings_unreadable") from error
    if len(data) > MAX_SETTINGS_BYTES:
        raise Invalid(f"{path} is larger than {MAX_SETTINGS_BYTES} bytes; is it a settings file?", code="settings_size")
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} is not TOML: {error}", code="settings_syntax") from error


def convert(tables: object, kind: type[T], *, source: str) -> T:
    """`tables` (plain dicts and lists) as `kind`; `source` is named in errors."""
    try:
        return msgspec.convert(tables, kind, dec_hook=_from_text)
    except msgspec.ValidationError as error:
        raise Invalid(f"{source}: {error}{_hint(error, kind)}", code="settings_value") from error


def _from_text(kind: type, value: object) -> object:
    """Paths and other types that TOML has no literal for."""
    if kind is Path and isinstance(value, str):
        return Path(value).expanduser()
    raise NotImplementedError(f"settings cannot hold {kind}")


def _hint(error: msgspec.ValidationError, kind: type) -> str:
    if "unknown field" not in str(error) or not issubclass(kind, msgspec.Struct):
        return ""
    return f" (known keys: {', '.join(sorted(kind.__struct_fields__))})"


class Explained(msgspec.Struct, frozen=True):
    """One line of `skyfed config show`."""

    key: str
    value: object
    default: object
    type: str
    description: str


def explain(value: msgspec.Struct, prefix: str = "") -> Iterator[Explained]:
    """Every setting in `value`, nested structs flattened to dotted keys, with its default and explanation."""
    hints = get_type_hints(type(value), include_extras=True)
    for field in msgspec.structs.fields(type(value)):
        current = getattr(value, field.name)
        key = f"{prefix}{field.encode_name}"
        if isinstance(current, msgspec.Struct):
            yield from explain(current, prefix=key + ".")
            continue
        default: object = "" if field.required else field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        plain, description = _unwrap(hints[field.name])
        yield Explained(key, current, default, _type_name(plain), description)


def _unwrap(hint: Any) -> tuple[Any, str]:
    if get_origin(hint) is Annotated:
        inner, *extras = get_args(hint)
        texts = [e.description for e in extras if isinstance(e, msgspec.Meta) and e.description]
        return inner, " ".join(texts)
    return hint, ""


def _type_name(hint: Any) -> str:
    if get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_type_name(a) for a in get_args(hint))
    if hint is type(None):
        return "absent"
    if get_origin(hint) is typing.Literal:
        return " | ".join(shown(a) for a in get_args(hint))
    return getattr(hint, "__name__", str(hint))
