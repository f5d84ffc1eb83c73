"""Who asks, and what they may have."""

from typing import Any

from fastapi import APIRouter

from ..described import PersonAnswer
from ..events import moment
from ..parts import WithParts, WithPerson
from ..quotas import tomorrow

router = APIRouter(tags=["people"])


@router.get("/me", response_model=PersonAnswer)
def me(parts: WithParts, person: WithPerson) -> dict[str, Any]:
    """Whose token this is, what they may have, and what of it they have today."""
    standing = parts.allowances.standing(person.name)
    return {
        "name": person.name,
        "admin": person.admin,
        "quota": vars(standing.quota),
        "running": standing.running,
        "used_trial_seconds": standing.used_s,
        "resets": moment(tomorrow(parts.runner.clock())),
    }
