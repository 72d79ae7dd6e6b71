"""The administration API of the compute service: JSON over the node's own unix socket."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from skyfed.compute.service import ComputeService
from skyfed.core.errors import Invalid
from skyfed.core.text import shown


def admin_routes(service: ComputeService) -> list[BaseRoute]:
    """What an administrator may see and do: everybody's machines, images, the engine, usage events."""

    async def vms(_request: Request) -> Response:
        return _json(service.list(None))

    async def vm(request: Request) -> Response:
        return _json(service.get(request.path_params["vm_id"], None))

    async def delete_vm(request: Request) -> Response:
        await service.delete(request.path_params["vm_id"], None)
        return Response(status_code=204)

    async def console(request: Request) -> Response:
        tail = _number(request, "tail", 65536)
        log = await service.console_log(request.path_params["vm_id"], None, tail_bytes=tail)
        return Response(log, media_type="application/octet-stream")

    async def images(_request: Request) -> Response:
        return _json(service.images())

    async def retire_image(request: Request) -> Response:
        await service.retire_image(request.path_params["image_id"])
        return Response(status_code=204)

    async def engine(_request: Request) -> Response:
        found = msgspec.to_builtins(service.engine_health)
        return _json({**found, "capabilities": service.capabilities, "unknown_guests": service.unknown_guests})

    async def usage(request: Request) -> Response:
        vm_id = request.query_params.get("vm")
        since, limit = _number(request, "since", 0), _number(request, "limit", 1000)
        return _json(await service.usage_events(since, limit, vm_id=vm_id))

    async def capacity(_request: Request) -> Response:
        return _json(service.capacity())

    return [
        Route("/vms", vms),
        Route("/vms/{vm_id}", vm, methods=["GET"]),
        Route("/vms/{vm_id}", delete_vm, methods=["DELETE"]),
        Route("/vms/{vm_id}/console", console),
        Route("/images", images),
        Route("/images/{image_id}", retire_image, methods=["DELETE"]),
        Route("/engine", engine),
        Route("/usage", usage),
        Route("/capacity", capacity),
    ]


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Invalid(f"{name} is {shown(text)}; it must be a whole number", code="bad_number")
    return int(text)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
