"""Settings of the OCCI service, and how it is wired into a node."""

from pathlib import Path
from typing import Annotated

import msgspec

from skyfed.compute.service import ComputeService
from skyfed.core.errors import Invalid
from skyfed.core.settings import setting
from skyfed.core.text import shown
from skyfed.identity.mapping import Mapping as ProjectMapping
from skyfed.identity.mapping import Target
from skyfed.identity.policy import Policy
from skyfed.occi import answers
from skyfed.occi.creation import Templates
from skyfed.occi.http import OcciApp
from skyfed.occi.model import site_names
from skyfed.occi.service import OcciService
from skyfed.web.runtime import Assembly, Health, Runtime


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an administrator may choose."""

    vos: Annotated[
        dict[str, Target],
        setting(
            "who may use this site: VO name, FQAN or FQAN glob → projects, e.g. "
            '{"demo.skyfed" = {project = "demo"}}; in the order of precedence'
        ),
    ] = {}
    mapping_file: Annotated[
        Path | None, setting("the same from a JSON file in the form of Keystone-VOMS' voms.json; `vos` goes first")
    ] = None
    policy: Annotated[Policy, setting("which FQANs may create, change and administer machines")] = Policy()
    public_url: Annotated[
        str, setting("URL of the service as clients know it, with any path prefix; empty: the listener's")
    ] = ""
    os_tpl_scheme: Annotated[
        str,
        setting(
            "scheme of the images' os_tpl, ending in '#'; published and used in scripts, so keep it; "
            "empty: http://<site>/occi/infrastructure/os_tpl#"
        ),
    ] = ""
    resource_tpl_scheme: Annotated[
        str, setting("the same for flavours; empty: http://<site>/occi/infrastructure/resource_tpl#")
    ] = ""
    default_os_tpl: Annotated[
        str, setting("type identifier of the os_tpl for a create without any; empty: such a create is refused")
    ] = ""
    default_resource_tpl: Annotated[str, setting("the same for the resource_tpl")] = ""


def assemble(settings: Settings, runtime: Runtime) -> Assembly:
    """The OCCI front door of the site's compute service. Raises Invalid for settings that cannot be right."""
    url = settings.public_url or (runtime.listener.public_url if runtime.listener else "")
    return build(settings, runtime.require_compute(ComputeService), site=runtime.site, url=url)


def build(settings: Settings, compute: ComputeService, *, site: str, url: str) -> Assembly:
    """The same without a node around it: `site` is the registry name, `url` the service's URL for clients."""
    names = site_names(
        site=site,
        url=url,
        os_tpl_scheme=settings.os_tpl_scheme,
        resource_tpl_scheme=settings.resource_tpl_scheme,
    )
    service = OcciService(
        compute,
        mapping=mapping(settings),
        policy=settings.policy,
        names=names,
        defaults=Templates(os_tpl=settings.default_os_tpl, resource_tpl=settings.default_resource_tpl),
    )

    async def health() -> Health:
        engine = compute.engine_health
        return Health(ok=engine.ok, detail="" if engine.ok else f"the engine is not well: {engine.detail}")

    return Assembly(app=OcciApp(service, url), render=answers.error, health=health)


def mapping(settings: Settings) -> ProjectMapping:
    """Inline rules first, then those of the file. Raises Invalid."""
    for key, target in settings.vos.items():
        if not target.all:
            raise Invalid(f"vos: the key {shown(key)} maps to no project", code="mapping")
    more = ProjectMapping.load(settings.mapping_file).rules if settings.mapping_file is not None else ()
    return ProjectMapping((*settings.vos.items(), *more))
