"""From bytes to bytes: one request of either protocol, answered. Knows no sockets."""

import asyncio
import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Literal

import msgspec

from skyfed.voms.authority import Authority
from skyfed.voms.measures import ANSWERS
from skyfed.voms.model import AcRequest, Answer, AuthorityFault, internal_error
from skyfed.voms.wire import legacy, rest

log = logging.getLogger(__name__)

Protocol = Literal["rest", "legacy"]


class Request(msgspec.Struct, frozen=True):
    """What arrived: the request line of an HTTP request, or a whole document of the socket protocol."""

    protocol: Protocol
    data: bytes
    too_large: bool = False


class Door:
    """Answers requests with the authority's decisions."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    async def answer(self, request: Request, chain_der: Sequence[bytes], peer: str) -> bytes:
        """The whole answer; never raises for anything that was asked."""
        if request.protocol == "rest":
            return await self._rest(request, chain_der, peer)
        return await self._legacy(request, chain_der, peer)

    async def _rest(self, request: Request, chain_der: Sequence[bytes], peer: str) -> bytes:
        if request.too_large:
            return rest.not_here(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        try:
            wanted = rest.parse_request(rest.parse_target(request.data.decode("latin-1")))
            return rest.answer(await self._issue("rest", chain_der, wanted, peer))
        except rest.NotHere:
            _count("rest", "not_found")
            return rest.not_here()
        except AuthorityFault as fault:
            _count("rest", fault.code)
            return rest.refusal(fault)

    async def _legacy(self, request: Request, chain_der: Sequence[bytes], peer: str) -> bytes:
        try:
            wanted = legacy.parse_request(request.data)
            result = await self._issue("legacy", chain_der, wanted, peer)
            return legacy.answer(result, standard_base64=wanted.standard_base64)
        except AuthorityFault as fault:
            _count("legacy", fault.code)
            return legacy.refusal(fault)

    async def _issue(self, protocol: Protocol, chain_der: Sequence[bytes], wanted: AcRequest, peer: str) -> Answer:
        try:
            result = await asyncio.to_thread(self._authority.issue, chain_der, wanted, peer)
        except AuthorityFault:
            raise
        except Exception as error:
            # A client waits for an answer in its protocol whatever happened here; the log has the rest.
            log.exception("the attribute authority failed")
            raise internal_error() from error
        _count(protocol, "issued" if result.listing is None else "listed")
        return result


def _count(protocol: Protocol, outcome: str) -> None:
    ANSWERS.labels(protocol, outcome).inc()
