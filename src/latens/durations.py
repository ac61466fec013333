"""Durations in texts, such as 90s or 1h30m."""

from __future__ import annotations

import re

from latens.errors import UsageError

DURATION = re.compile(r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s?)?")


def parse_duration(text: str) -> float:
    """Seconds of "90", "45s", "30m", "2h" or "1h30m". Raises UsageError."""
    match = DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise UsageError(f"'{text}' is not a duration", hint="write 90s, 30m, 2h or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in match.group("h", "m", "s"))
    return 3600 * hours + 60 * minutes + seconds
