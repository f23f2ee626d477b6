"""Each of a store's errors has its row of the problem table and one sentence of its own."""

import pytest

from node.contract.problems import ProblemError
from node.storage import errors
from node.storage.errors import StorageError

KINDS = {
    errors.ObjectMissing: 502,
    errors.ObjectDamaged: 502,
    errors.AccessRefused: 502,
    errors.UnexpectedStoreError: 502,
    errors.StoreUnreachable: 503,
    errors.StoreBusy: 503,
    errors.StoreFull: 507,
    errors.ObjectTooLarge: 413,
    errors.ObjectExists: 409,
    errors.InvalidKey: 400,
    errors.SizeMismatch: 400,
    errors.OperationNotSupported: 409,
}


def test_every_kind_is_listed() -> None:
    defined = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, StorageError)}
    assert {kind for kind in defined if kind is not StorageError and not kind.__name__.startswith("_")} == set(KINDS)


@pytest.mark.parametrize(("kind", "status"), KINDS.items())
def test_status_and_sentence(kind: type[StorageError], status: int) -> None:
    error = kind()
    assert isinstance(error, ProblemError)
    assert error.status == status
    assert error.document("r1")["detail"] == kind.sentence
    assert error.reason == kind.word
    assert ("Retry-After" in error.headers) is (status == 503)


def test_sentences_and_words_differ() -> None:
    assert len({kind.sentence for kind in KINDS}) == len({kind.word for kind in KINDS}) == len(KINDS)


def test_a_sentence_and_headers_can_be_given() -> None:
    error = errors.StoreBusy("Wait a little", reason="throttled", headers={"Retry-After": "3"})
    assert (error.detail, error.reason, error.headers["Retry-After"]) == ("Wait a little", "throttled", "3")
