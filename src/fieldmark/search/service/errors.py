"""What the service refuses, as one exception that becomes one shape of answer."""

import contextlib
from collections.abc import Iterator


class Refusal(Exception):
    """A request that gets an answer other than 200.

    Attributes:
        status: HTTP status, 4xx or 503.
        code: one word for programs, e.g. "bad_picture".
        message: a sentence for people. Plain text; it is sent as JSON and never becomes HTML.
        retry_after: seconds after which another try makes sense; None where it makes none.
        picture: number of the request's picture that is meant, from 0; None if none is.
        where: number of the condition that is meant, from 0; None if none is.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        retry_after: int | None = None,
        picture: int | None = None,
        where: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.picture = picture
        self.where = where


def overloaded(what: str, retry_after: float) -> Refusal:
    """503: `what` is full; try again after so many seconds (rounded up, 1 at least, 60 at most)."""
    seconds = min(60, max(1, int(retry_after + 0.999)))
    return Refusal(503, "overloaded", f"{what}: try again in {seconds} s", seconds)


def token_needed(*, given: bool) -> Refusal:
    """401. given: a token came with the request, but not the service's."""
    wrong = "the token is wrong; " if given else ""
    return Refusal(401, "token_needed", f"{wrong}send the service's token: Authorization: Bearer TOKEN")


@contextlib.contextmanager
def about_picture(number: int) -> Iterator[None]:
    """Refusals within are about this picture of the request."""
    try:
        yield
    except Refusal as refusal:
        refusal.picture = number
        raise


def error_body(refusal: Refusal, request_id: str) -> dict[str, dict[str, str | int]]:
    """The JSON of every answer that is no success."""
    body: dict[str, str | int] = {"code": refusal.code, "message": refusal.message, "request_id": request_id}
    meant = {"picture": refusal.picture, "where": refusal.where}
    return {"error": body | {name: number for name, number in meant.items() if number is not None}}
