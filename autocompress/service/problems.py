"""What the service refuses, as problem documents (RFC 9457) that say what, where, the rule and the fix."""

from http import HTTPStatus
from typing import Any

from ..errors import AutocompressError, ServiceError, StorageAway, StudyError, WriteError

MEDIA_TYPE = "application/problem+json"


class Refusal(ServiceError):
    """A request that is refused: with the status of HTTP, and in words what, where, by which rule, and the fix.

    retry_s is after how many seconds the same request may be taken.
    """

    def __init__(self, status: int, what: str, where: str, rule: str, fix: str, retry_s: float | None = None) -> None:
        self.status, self.what, self.where, self.rule, self.fix = status, what, where, rule, fix
        self.retry_s = retry_s
        super().__init__(": ".join(part for part in (where, what, rule, fix) if part))

    def document(self) -> dict[str, Any]:
        """The problem document."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": str(self),
            "what": self.what,
            "where": self.where,
            "rule": self.rule,
            "fix": self.fix,
        }


def refusal(error: AutocompressError, status: int | None = None) -> Refusal:
    """An error of ours as a refusal; its message reads `where: what: rule: fix`, of which some may be missing."""
    if isinstance(error, Refusal):
        return error
    parts = str(error).split(": ")
    where, what, *rest = parts if len(parts) > 2 else ["", *parts]
    *rules, fix = rest or [""]
    return Refusal(status or _status(error), what, where, ": ".join(rules), fix)


def _status(error: AutocompressError) -> int:
    kinds = (
        (StorageAway, HTTPStatus.SERVICE_UNAVAILABLE),
        (StudyError, HTTPStatus.NOT_FOUND),
        (WriteError, HTTPStatus.INSUFFICIENT_STORAGE),
    )
    return next((int(status) for kind, status in kinds if isinstance(error, kind)), int(HTTPStatus.BAD_REQUEST))
