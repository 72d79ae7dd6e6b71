"""What any foreign client needs to know of the federation, as environment variables."""

import os
import shlex
from collections.abc import Mapping

from skyfed.core.errors import NotFound
from skyfed.federation.places import NAME, Places


def environment(places: Places, user: str) -> dict[str, str]:
    """The variables for acting as `user` (a demo user). Raises NotFound for an unknown one."""
    home = places.user(user)
    if not (home / "usercert.pem").exists():
        known = sorted(p.parent.name for p in home.parent.glob("*/usercert.pem"))
        raise NotFound(f"there is no demo user '{user}' (there are: {', '.join(known)})", code="no_user")
    return {
        "X509_USER_CERT": str(home / "usercert.pem"),
        "X509_USER_KEY": str(home / "userkey.pem"),
        "X509_USER_PROXY": str(home / "proxy.pem"),
        "X509_CERT_DIR": str(places.certificates),
        "X509_VOMS_DIR": str(places.vomsdir),
        # `skyfed` reads X509_VOMSES, the C++ client VOMS_USERCONF; the Java client (3.3.2) no variable at all, only
        # .voms/vomses in what Java takes for the home directory.
        "X509_VOMSES": str(places.vomses),
        "VOMS_USERCONF": str(places.vomses),
        "VOMS_CLIENTS_JAVA_OPTIONS": f"-XX:+UseSerialGC -Xmx64m -Duser.home={home}",
        "LCG_GFAL_INFOSYS": places.ldap("federation"),
        "SKYFED_SSH_KEY": str(home / "ssh_key"),
        "SKYFED_DIR": str(places.directory),
        "SKYFED_NODE": str(places.node("federation")),
        "SKYFED_REGISTRY": places.url("federation", "registry"),
        "SKYFED_PORTAL": places.url("federation", "portal"),
        "SKYFED_IMAGE_LIST": f"{places.url('federation', 'images')}/lists/demo.skyfed",
        "SKYFED_ACCOUNTING": places.url("federation", "accounting"),
        "SKYFED_OCCI_ALPHA": places.url("alpha", "occi"),
        "SKYFED_OCCI_BETA": places.url("beta", "occi"),
        # Loopback is never behind the proxy that a site's machines may be told to use.
        "no_proxy": ",".join(filter(None, (os.environ.get("no_proxy", ""), NAME, "127.0.0.1"))),
    }


def as_shell(variables: Mapping[str, str]) -> str:
    """`export NAME=value` lines for eval."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())
