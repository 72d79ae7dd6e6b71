"""Talking to an accounting repository: sending messages, asking for usage."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec

from skyfed.accounting.model import CloudSummary, DayUsage, JournalRecord, Remark
from skyfed.core.http import Client
from skyfed.core.text import one_line

DEADLINE_SECONDS = 60.0
PAGE = 1000
# Names in a page of records may be long: 255 characters each.
MAX_PAGE_BYTES = 64 << 20

T = TypeVar("T")


class Receipt(msgspec.Struct, frozen=True):
    """What the repository made of a message; `stored` counts new and changed records."""

    message: int
    verdict: str
    records: int
    stored: int
    remarks: tuple[Remark, ...] = ()
    remark_count: int = 0
    duplicate: bool = False


class Today(msgspec.Struct, frozen=True):
    """Usage by site and VO since midnight UTC (`since`, epoch seconds), as far as records have come in."""

    since: int
    usage: tuple[DayUsage, ...]


class AccountingClient:
    """A repository at `base_url`. Safe to share between threads.

    Every call raises Unavailable, TimedOut (the exchange), Unauthenticated, Forbidden, Invalid (the repository's answer).
    """

    def __init__(self, http: Client, base_url: str) -> None:
        self._http = http
        self._base = base_url.rstrip("/")

    def post_message(self, body: bytes, *, empaid: str) -> Receipt:
        """Hand over an S/MIME signed message. Sending it again changes nothing."""
        headers = {"Content-Type": "application/octet-stream", "Empa-Id": empaid, "Accept": "application/json"}
        answer = self._http.request(
            "POST", f"{self._base}/v1/messages", headers=headers, body=body, deadline=DEADLINE_SECONDS
        )
        receipt: Receipt = answer.raise_for_status().json(Receipt)
        return receipt

    def summaries(
        self,
        *,
        site: str | None = None,
        service: str | None = None,
        vo: str | None = None,
        month: str | None = None,
        user: str | None = None,
        users: bool = False,
    ) -> Iterator[CloudSummary]:
        """Monthly summaries. `month` is YYYY-MM. Added up over persons, unless `users`: then by person, as far as the
        caller's credential allows; `user` is one of them (`me`: the caller)."""
        wanted = {"site": site, "service": service, "vo": vo, "month": month, "user": user}
        return self._pages("/v1/summaries", {**wanted, "users": "true" if users or user else None}, CloudSummary)

    def records(
        self,
        *,
        vm: str | None = None,
        site: str | None = None,
        vo: str | None = None,
        month: str | None = None,
        user: str | None = None,
        history: bool = False,
    ) -> Iterator[JournalRecord]:
        """Usage records that the caller's credential allows to see, newest first; with `history` the replaced ones too."""
        wanted = {"vm": vm, "site": site, "vo": vo, "month": month, "user": user}
        return self._pages("/v1/records", {**wanted, "history": "true" if history else None}, JournalRecord)

    def today(self) -> Today:
        """The usage of the day so far; no credential needed."""
        answer = self._http.request("GET", f"{self._base}/v1/usage/today", deadline=DEADLINE_SECONDS)
        today: Today = answer.raise_for_status().json(Today)
        return today

    def messages(self, *, verdict: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """The message ledger, newest first: what the caller signed or brought; everything for an operator."""
        query = _query({"verdict": verdict, "limit": str(limit)})
        found: list[dict[str, Any]] = self._http.json("GET", f"{self._base}/v1/messages{query}")["results"]
        return found

    def _pages(self, path: str, wanted: Mapping[str, str | None], kind: type[T]) -> Iterator[T]:
        offset = 0
        while True:
            query = _query({**wanted, "limit": str(PAGE), "offset": str(offset)})
            answer = self._http.request(
                "GET", f"{self._base}{path}{query}", deadline=DEADLINE_SECONDS, max_bytes=MAX_PAGE_BYTES
            )
            page = answer.raise_for_status().json(_Page)
            # Our own counting rather than the link in `next`: a repository behind a proxy may not know its own name.
            yield from (msgspec.convert(item, kind, strict=False) for item in page.results)
            if page.next is None:
                return
            offset += PAGE


class _Page(msgspec.Struct):
    results: list[Any]
    next: str | None = None


def _query(values: Mapping[str, str | None]) -> str:
    given = {name: one_line(value, 300) for name, value in values.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""
