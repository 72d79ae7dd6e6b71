"""Settings: what is wrong is named with file, key and what would be right."""

from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from skyfed.core.errors import Invalid
from skyfed.core.settings import explain, load, setting


class Inner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    seconds: Annotated[float, setting("Seconds between rounds.")] = 60.0


class Toy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    url: Annotated[str, setting("Where the registry is.")]
    folder: Annotated[Path | None, setting("Where files go.")] = None
    inner: Inner = Inner()


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(text)
    return path


def test_a_good_file_is_typed(tmp_path: Path) -> None:
    toy = load(write(tmp_path, 'url = "https://r"\nfolder = "/srv"\n[inner]\nseconds = 5.0\n'), Toy)
    assert toy == Toy(url="https://r", folder=Path("/srv"), inner=Inner(seconds=5.0))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('url = "x"\nurll = "y"', "urll.*known keys: folder, inner, url"),
        ('url = "x"\n[inner]\nseconds = "five"', r"float.*\$\.inner\.seconds"),
        ("", "missing required field `url`"),
        ("url = ", "not TOML"),
    ],
)
def test_a_bad_file_is_named_with_its_key(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(Invalid, match=says) as caught:
        load(write(tmp_path, text), Toy)
    assert "node.toml" in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="No such file"):
        load(tmp_path / "none.toml", Toy)


def test_every_setting_explains_itself() -> None:
    lines = {line.key: line for line in explain(Toy(url="https://r", inner=Inner(seconds=5.0)))}
    assert lines["inner.seconds"].description == "Seconds between rounds."
    assert (lines["inner.seconds"].value, lines["inner.seconds"].default) == (5.0, 60.0)
    assert lines["folder"].type == "Path or absent"
