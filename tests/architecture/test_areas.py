"""Areas talk to each other as two sites would: an area imports another area's model or client, nothing else of it."""

import grimp
import pytest

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
