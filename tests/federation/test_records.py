"""What a machine's life leaves in the records of the whole federation: one identifier for its image, one place for its owner's
name."""

import json
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from skyfed.federation.places import NODES, Places
from support import federation as fed

pytestmark = [pytest.mark.e2e, pytest.mark.peer]


@pytest.fixture(scope="module")
def record(places: Places, alice: dict[str, str]) -> dict[str, Any]:
    """A usage record of a machine at ALPHA, made if there is none yet."""

    def records() -> list[dict[str, Any]]:
        said = json.loads(fed.skyfed("accounting", "records", "--json", env=alice))
        return [one["record"] for one in said if one["record"]["SiteName"] == "ALPHA"]

    if not records():
        fed.skyfed("tour", "--dir", str(places.directory), "--site", "alpha")
    return records()[0]


def test_an_image_has_one_identifier_in_list_os_tpl_glue2_and_accounting(
    alice: dict[str, str], record: dict[str, Any]
) -> None:
    offers = json.loads(fed.skyfed("find", "image", "Skyfed demo guest", "--vo", "demo.skyfed", "--json", env=alice))
    (offered,) = [offer["image"] for offer in offers if offer["site"] == "ALPHA"]
    listed = json.loads(fed.skyfed("image", "list", "--list-url", alice["SKYFED_IMAGE_LIST"], "--json", env=alice))[
        "hv:images"
    ]
    (published,) = [one["hv:image"] for one in listed if one["hv:image"]["dc:title"] == "Skyfed demo guest"]
    assert offered["identifier"] == published["ad:mpuri"] == record["ImageId"]
    model = fed.skyfed("occi", "model", "--site", "ALPHA", env=alice)
    assert offered["id"].rpartition("#")[2] in model


def test_a_persons_name_stands_in_one_table_of_each_database(places: Places, record: dict[str, Any]) -> None:
    """So that erasing it there erases it. Measured on the files: no column is forgotten."""
    assert record["GlobalUserName"].endswith("/CN=alice")
    found = {
        (path.parts[-4], path.parts[-2], table)
        for node in NODES
        for path in places.node(node).glob("data/*/*.db")
        for table in tables_with(path, b"CN=alice")
    }
    assert found == {
        ("alpha", "compute", "compute_person"),
        ("alpha", "accounting", "accounting_person"),
        ("federation", "accounting", "accounting_person"),
        ("federation", "voms", "voms_certificate"),
        *(one for one in found if one[0] == "beta" and one[2].endswith("_person")),
    }


def tables_with(path: Any, text: bytes) -> list[str]:
    """Names of the tables of a database that hold `text` in any column."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as db:
        names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return [
            name
            for name in names
            if any(
                db.execute(
                    f'SELECT 1 FROM "{name}" WHERE instr(CAST("{column[1]}" AS BLOB), ?) LIMIT 1', (text,)
                ).fetchone()
                for column in db.execute(f'PRAGMA table_info("{name}")').fetchall()
            )
        ]
