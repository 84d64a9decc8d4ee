"""Freeze windows: times in which no version gets more traffic. Going back is always allowed."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from slipway.contracts.rollout.part import Part

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_WEEKLY = re.compile(rf"({'|'.join(DAYS)}) ([01]\d|2[0-3]):([0-5]\d)")


class FreezeWindow(Part):
    """From `start` until `end`, each week (`Fri 16:00`) or once (`2026-12-20 00:00`), by the clock of `timezone`."""

    name: str = Field("", description="What it is for, for people.")
    start: str
    end: str
    timezone: str = Field("UTC", description="IANA name, such as Europe/Zurich.")

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"{name!r} is not an IANA time zone, such as UTC or Europe/Zurich") from error
        return name

    @model_validator(mode="after")
    def _can_be_read(self) -> FreezeWindow:
        weekly = [_WEEKLY.fullmatch(text) is not None for text in (self.start, self.end)]
        if weekly[0] != weekly[1]:
            raise ValueError("start and end of a freeze are both weekly (`Fri 16:00`) or both dates")
        if all(weekly):
            if self.start == self.end:
                raise ValueError("start and end of a freeze are the same")
        elif _date(self.start, self.timezone) >= _date(self.end, self.timezone):
            raise ValueError(f"a freeze ends before it begins: {self.start} to {self.end}")
        return self

    def until(self, now: float) -> float | None:
        """Returns the Unix seconds at which the freeze that `now` falls into ends, or None where there is none."""
        if _WEEKLY.fullmatch(self.start) is None:
            begin, end = (_date(text, self.timezone).timestamp() for text in (self.start, self.end))
            return end if begin <= now < end else None
        local = datetime.fromtimestamp(now, ZoneInfo(self.timezone))
        # A window that began last week may still last.
        for weeks in (1, 0):
            begin_at = _weekly(self.start, local) - timedelta(weeks=weeks)
            end_at = _weekly(self.end, local) - timedelta(weeks=weeks)
            if end_at <= begin_at:
                end_at += timedelta(weeks=1)
            if begin_at <= local < end_at:
                return end_at.timestamp()
        return None


def _weekly(text: str, around: datetime) -> datetime:
    """Returns the moment of this week (from Monday) that the text names, by the wall clock of `around`'s zone."""
    day, clock = text.split(" ")
    hour, minute = (int(part) for part in clock.split(":"))
    monday = around.replace(hour=hour, minute=minute, second=0, microsecond=0) - timedelta(days=around.weekday())
    return monday + timedelta(days=DAYS.index(day))


def _date(text: str, timezone: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is neither `Fri 16:00` nor a date such as `2026-12-20 00:00`") from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=ZoneInfo(timezone))
