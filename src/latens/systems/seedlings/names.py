"""Tray and day of a photograph, from a name TRAY_dayN, from a date in the name or in EXIF with the date of sowing, or given.

Other numbers in a name are ignored.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from latens.errors import UsageError

DAY = re.compile(r"^(?P<tray>.+?)[_\-. ]day[_\- ]?(?P<day>\d{1,3})$", re.IGNORECASE)
DATE = re.compile(r"^(?P<tray>.+?)[_\-. ](?P<date>\d{4}-\d{2}-\d{2})(?!\d)(?P<rest>.*)$")
EXIF_IFD, DATE_TIME_ORIGINAL = 0x8769, 0x9003


class Shot(NamedTuple):
    """Tray and day of a photograph."""

    tray: str
    day: int | None  # days after sowing; None: unknown
    note: str = ""  # source of the day if it is a date, or the reason why the day is unknown


def parse_date(text: str, where: str) -> date:
    """A date as YYYY-MM-DD. Raises UsageError."""
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(f"'{text}' is not a date", where=where, hint="write it as 2024-03-01") from None


def identify(path: Path, *, sown: date | None = None, day: int | None = None) -> Shot:
    """Tray and day of a photograph. `day` takes precedence over the name. Dates need the date of sowing."""
    stem = path.stem
    if match := DAY.match(stem):
        return Shot(match["tray"], int(match["day"]) if day is None else day)
    if match := DATE.match(stem):
        if day is not None:
            return Shot(match["tray"], day)
        try:
            taken = date.fromisoformat(match["date"])
        except ValueError:
            return Shot(stem, None, f"'{match['date']}' is not a date")
        if sown is None:
            return Shot(match["tray"], None, f"taken on {taken}; the day needs the date of sowing (--sown)")
        return _since(match["tray"], taken, sown, "the date in its name")
    if day is not None:
        return Shot(stem, day)
    taken_at = exif_date(path)
    if taken_at is not None and sown is not None:
        return _since(stem, taken_at, sown, "EXIF DateTimeOriginal")
    if taken_at is not None:
        return Shot(stem, None, f"taken on {taken_at} (EXIF); the day needs the date of sowing (--sown)")
    return Shot(stem, None, "name the file TRAY_day6.png, or TRAY_2024-03-07.png with --sown, or give --day")


def _since(tray: str, taken: date, sown: date, source: str) -> Shot:
    days = (taken - sown).days
    if days < 0:
        return Shot(tray, None, f"{source} ({taken}) is before the date of sowing ({sown})")
    return Shot(tray, days, f"day {days} from {source}")


def exif_date(path: Path) -> date | None:
    """EXIF DateTimeOriginal of an image file; None without it."""
    try:
        with Image.open(path) as image:
            text = image.getexif().get_ifd(EXIF_IFD).get(DATE_TIME_ORIGINAL)
        return None if text is None else datetime.strptime(str(text)[:10], "%Y:%m:%d").date()
    except Exception:  # damaged tags raise various exceptions; the pixels may be intact
        return None
