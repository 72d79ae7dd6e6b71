"""Errors on the wire: the family as problem+json or text, anything else as a 500 that gives nothing away."""

import json
import logging

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from skyfed.core import errors
from skyfed.core.clock import SystemClock
from skyfed.core.errors import SkyfedError
from skyfed.web.application import Application
from skyfed.web.errors import Boundary
from support.asgi import accepted, call

SECRET = "the key is hunter2"


def failing(error: Exception) -> Boundary:
    async def endpoint(_request: Request) -> Response:
        raise error

    return Boundary(Application([Route("/", endpoint)]), service="test", clock=SystemClock())


@pytest.mark.parametrize(
    ("error", "status", "title"),
    [
        (errors.Invalid("wrong", code="bad_value"), 400, "Invalid"),
        (errors.NotFound("nothing"), 404, "Not found"),
        (errors.Conflict("it runs"), 409, "Conflict"),
        (errors.TooLarge("too much"), 413, "Too large"),
        (errors.Unavailable("down", retry_after=1.2), 503, "Unavailable"),
        (errors.TimedOut("late"), 504, "Timed out"),
    ],
)
def test_an_error_of_the_family_is_a_problem_document(error: SkyfedError, status: int, title: str) -> None:
    answer = call(failing(error), "GET", "/")
    problem = json.loads(answer.body)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert (answer.status, problem["status"], problem["title"]) == (status, status, title)
    assert (problem["detail"], problem["code"]) == (error.message, error.code)
    assert problem["request_id"] == answer.headers["x-request-id"]


def test_an_error_as_text_is_one_line_with_its_code() -> None:
    error = errors.Invalid("cpu 'a\r\nb' is wrong", code="cpu")
    answer = call(failing(error), "GET", "/", headers={"accept": "text/plain"})
    assert answer.text == "cpu 'a b' is wrong (cpu)\n"


def test_an_error_as_a_page_is_escaped() -> None:
    answer = call(failing(errors.Invalid("<script>")), "GET", "/", headers={"accept": "text/html"})
    assert "&lt;script&gt;" in answer.text
    assert "<script>" not in answer.text


def test_retry_after_and_allow_are_sent() -> None:
    assert call(failing(errors.Unavailable("down", retry_after=1.2)), "GET", "/").headers["retry-after"] == "2"
    refused = call(failing(errors.NotAllowed("no", allow=("GET", "PUT"))), "GET", "/")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, PUT")


@pytest.mark.parametrize("error", [ValueError(SECRET), KeyError(SECRET), SkyfedError(SECRET)])
def test_an_unexpected_exception_tells_the_client_nothing_and_the_log_everything(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    answer = call(failing(error), "GET", "/")
    assert answer.status == 500
    assert "hunter2" not in answer.text
    request_id = json.loads(answer.body)["request_id"]
    assert request_id in json.loads(answer.body)["detail"]
    record = next(record for record in caplog.records if record.exc_info)
    assert request_id in record.getMessage()
    assert "hunter2" in str(record.exc_info[1])


def test_an_expected_failure_is_logged_without_a_trace(caplog: pytest.LogCaptureFixture) -> None:
    call(failing(errors.Unavailable("the directory is down")), "GET", "/")
    logged = [record for record in caplog.records if "the directory is down" in record.getMessage()]
    assert [record.exc_info for record in logged] == [None]


def test_half_an_answer_is_cut_not_finished() -> None:
    async def half(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError(SECRET)

    app = Boundary(half, service="test", clock=SystemClock())
    with pytest.raises(ValueError, match="hunter2"):
        call(app, "GET", "/")


def test_an_unknown_path_and_a_wrong_method_are_of_the_family_too() -> None:
    app = failing(ValueError())
    assert json.loads(call(app, "GET", "/absent").body)["code"] == "not_found"
    wrong = call(app, "POST", "/")
    assert (wrong.status, wrong.headers["allow"]) == (405, "GET, HEAD")
    assert json.loads(wrong.body)["code"] == "method_not_allowed"


def test_each_answer_has_a_request_identifier_of_our_own() -> None:
    async def endpoint(_request: Request) -> Response:
        return PlainTextResponse("ok")

    app = Boundary(Application([Route("/", endpoint)]), service="test", clock=SystemClock())
    seen = {call(app, "GET", "/", headers={"x-request-id": "mine"}).headers["x-request-id"] for _ in range(3)}
    assert len(seen) == 3
    assert "mine" not in seen


def test_the_access_log_says_who_did_what(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "skyfed.web.access_log")
    call(failing(errors.NotFound("no")), "GET", "/a\nb", verdict=accepted("/CN=alice"))
    fields = next(r for r in caplog.records if r.name == "skyfed.web.access_log").skyfed_fields
    assert (fields["method"], fields["path"], fields["status"], fields["dn"]) == ("GET", "/a b", 404, "/CN=alice")
    assert fields["ms"] >= 0
    assert fields["request_id"]


def test_a_starlette_with_its_own_error_pages_is_not_taken() -> None:
    from skyfed.web.application import without_error_pages

    plain = Starlette(routes=[])
    assert isinstance(without_error_pages(plain), Application)
    plain.add_exception_handler(ValueError, lambda _request, _error: Response())
    with pytest.raises(ValueError, match="Application"):
        without_error_pages(plain)
