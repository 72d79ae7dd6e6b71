"""Who may import whom, where import-linter has no words for it. Areas talk to each other as two sites would: an area imports
another area's model or client, nothing else of it."""

import ast
from pathlib import Path

import grimp
import pytest

import skyfed as graph_root

AREAS = ("voms", "registry", "infosys", "accounting", "images", "occi", "portal")
SHARED_ROOMS = ("model", "client")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("skyfed")


@pytest.mark.parametrize("area", AREAS)
def test_an_area_reaches_into_no_other_area(graph: grimp.ImportGraph, area: str) -> None:
    own = graph.find_descendants(f"skyfed.{area}") | {f"skyfed.{area}"}
    assert len(own) > 1, f"there is no area {area}"
    reached = {
        (importer, imported)
        for importer in own
        for imported in graph.find_modules_directly_imported_by(importer)
        if imported.split(".")[1:2] in [[a] for a in AREAS] and imported not in own
    }
    assert {pair for pair in reached if pair[1].split(".")[2:3] not in [[room] for room in SHARED_ROOMS]} == set()


# What only a server has: whoever imports one of these needs a database, a web server or a node.
SERVER_ROOMS = ("assembly", "http", "migrations", "service", "store", "tables")


@pytest.mark.parametrize("area", [area for area in AREAS if area != "portal"])
def test_a_client_needs_no_room_of_a_server(graph: grimp.ImportGraph, area: str) -> None:
    needed = graph.find_upstream_modules(f"skyfed.{area}.client")
    assert f"skyfed.{area}.model" in needed
    rooms = {module for module in needed if module.split(".")[2:3] in [[room] for room in SERVER_ROOMS]}
    assert rooms - {"skyfed.core.http"} == set()


def test_engines_are_imported_by_the_node_alone(graph: grimp.ImportGraph) -> None:
    engines = graph.find_descendants("skyfed.compute.engines") | {"skyfed.compute.engines"}
    importers = {one for engine in engines for one in graph.find_modules_that_directly_import(engine)} - engines
    assert {one.split(".")[1] for one in importers} == {"node"}


def test_the_throw_away_ca_is_the_demo_federations_alone(graph: grimp.ImportGraph) -> None:
    """Nothing that a site or an operator runs assumes our test CA."""
    importers = graph.find_modules_that_directly_import("skyfed.pki.testca")
    assert {one.split(".")[1] for one in importers} == {"federation"}


def test_packages_run_nothing_when_they_are_imported() -> None:
    """An `__init__` that imports would make everything below it import that too. The libvirt engine's says what it opens."""
    root = Path(str(graph_root.__file__)).parent
    busy = {
        str(path.relative_to(root).parent)
        for path in root.rglob("__init__.py")
        if any(not isinstance(node, ast.Expr | ast.Assign) for node in ast.parse(path.read_text()).body)
    }
    assert busy <= {"compute/engines/libvirt"}


@pytest.mark.parametrize("module", ["errors", "text"])
def test_errors_and_text_import_nothing_of_ours(graph: grimp.ImportGraph, module: str) -> None:
    assert graph.find_modules_directly_imported_by(f"skyfed.core.{module}") == set()
