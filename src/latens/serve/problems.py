"""Answers that are errors: JSON with the error's class, its sentence and the next step, and a status."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response

from latens import errors
from latens.errors import LatensError

STATUSES: Mapping[type[LatensError], int] = {
    errors.UsageError: 400,
    errors.InputError: 422,
    errors.LimitExceeded: 413,
    errors.StorageFull: 507,
    errors.ModelMissing: 422,  # a file names the model that wrote it
    errors.ModelMismatch: 422,
}
"""Statuses of errors of the library and of their subclasses; all others are 500."""

BAD_REQUEST, UNAUTHORIZED, FORBIDDEN, NOT_FOUND, BAD_METHOD, SLOW_BODY = 400, 401, 403, 404, 405, 408
TOO_LARGE, WRONG_MEDIA, BUG, BUSY, TOO_LATE, GONE = 413, 415, 500, 503, 504, 499


class Problem(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, error: str, message: str, hint: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.error, self.message, self.hint = status, error, message, hint
        self.headers = dict(headers or {})

    @classmethod
    def of(cls, error: str, text: str) -> Problem:
        """The answer for an error of the library, by the name of its class and its text of up to three lines."""
        kind = getattr(errors, error, LatensError)
        status = next((STATUSES[base] for base in kind.__mro__ if base in STATUSES), BUG)
        message, _, hint = text.partition("\n")
        if status == TOO_LARGE:
            hint = "make it smaller; the operator of the service can raise the limit (latens serve --limit)"
        return cls(status, error, message, hint)

    def response(self) -> Response:
        found = {"error": self.error, "message": self.message, **({"hint": self.hint} if self.hint else {})}
        return Response(json.dumps(found), self.status, self.headers, "application/json")
