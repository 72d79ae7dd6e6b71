"""node.toml: what is wrong in it is named with file, key and what would be right."""

from pathlib import Path

import pytest

from skyfed.core.errors import Invalid, NotFound
from skyfed.node.config import Node

GOOD = """
[node]
name = "alpha"
role = "site"
site = "ALPHA"
[trust]
certificates = "../../pki/certificates"
vomsdir = "../../pki/vomsdir"
[processes]
engine = ["engine"]
site = ["compute", "occi"]
[services.engine]
[services.compute]
[services.occi.listen]
port = 8443
public_url = "https://localhost:8443"
"""


def node(tmp_path: Path, text: str) -> Node:
    (tmp_path / "node.toml").write_text(text)
    return Node.load(tmp_path)


def test_a_node_knows_its_places(tmp_path: Path) -> None:
    alpha = node(tmp_path, GOOD)
    assert list(alpha.placed()) == [("engine", "engine"), ("site", "compute"), ("site", "occi")]
    assert alpha.data("occi") == tmp_path.resolve() / "data" / "occi"
    assert alpha.path(alpha.config.trust.certificates).resolve() == tmp_path.parents[1] / "pki" / "certificates"
    with pytest.raises(NotFound, match="compute"):
        alpha.service("occy")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('site = "ALPHA"', "", "node.site: a site needs"),
        ('site = ["compute", "occi"]', 'site = ["compute", "occi", "voms"]', "'voms'.*no .services.NAME. table"),
        ('site = ["compute", "occi"]', 'site = ["compute"]', "'occi' stand in no process"),
        ('site = ["compute", "occi"]', 'site = ["compute", "occi"]\nmore = ["occi"]', "'occi' stand in more than one"),
        ('role = "site"', 'role = "cite"', r"Invalid enum value 'cite'.*\$\.node\.role"),
        ("port = 8443", 'port = "8443"', r"int.*listen\.port"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(Invalid, match=says) as caught:
        node(tmp_path, GOOD.replace(old, new))
    assert "node.toml" in caught.value.message
