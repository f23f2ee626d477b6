"""Problem documents leave as the table says, and tell nothing else."""

import json

from structlog.testing import capture_logs

from node.contract.problems import DocumentNotFound, InternalError, MissingCredential, RangeNotSatisfiable
from node.web.problems import request_id_of, send_problem, unexpected
from tests.web.asgi import Answer


async def sent(error, head=False):
    answer = Answer()
    await send_problem(answer.send, error, "r-1", head)
    return answer


async def test_a_problem_is_the_whole_answer():
    answer = await sent(RangeNotSatisfiable("Too far", headers={"Content-Range": "bytes */9"}))
    assert (answer.status, answer.complete) == (416, True)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["content-range"] == "bytes */9"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["cache-control"] == "no-store"
    assert json.loads(answer.body) == {
        "type": "https://federated-locker.example/problems/range-not-satisfiable",
        "title": "The document does not have the range that was asked for",
        "status": 416,
        "detail": "Too far",
        "request_id": "r-1",
    }


async def test_head_has_the_length_and_no_body():
    answer = await sent(DocumentNotFound(), head=True)
    assert answer.body == b"" and int(answer.headers["content-length"]) > 50


async def test_a_401_names_a_scheme_and_the_error_may_name_another():
    assert (await sent(MissingCredential())).headers["www-authenticate"] == "Bearer"
    answer = await sent(MissingCredential(headers={"WWW-Authenticate": 'DPoP algs="EdDSA"'}))
    assert answer.all("www-authenticate") == ['DPoP algs="EdDSA"']


def test_the_unexpected_is_logged_without_its_text():
    with capture_logs() as lines:
        try:
            raise ValueError("holder 999941057058")
        except ValueError as error:
            answer = unexpected(error, "r-2")
    assert isinstance(answer, InternalError) and answer.detail is None
    assert lines[0]["error"] == "ValueError" and lines[0]["request_id"] == "r-2"
    assert lines[0]["where"].startswith("test_problems.py:")
    assert "999941057058" not in str(lines)


def test_a_request_id_exists_even_outside_of_the_middleware():
    assert request_id_of({"state": {"request_id": "given"}}) == "given"
    assert len(request_id_of({})) == 36
