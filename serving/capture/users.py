"""Who was seen before: each user counts once for a model, for the version that answers the first request.

Counting starts anew when a version begins to answer that did not before, or not for an hour: from then on all versions
count users from the same moment, so that old users of the stable version are counted as new ones of the candidate are.
A user counts for one version only, even when a change of weights moves the user to another: whoever is counted was
assigned by chance, and is counted once.

A user is 64 bits of a hash of what events hold, which is a hash already. In Redis they lie in sets small enough for
its compact encoding, eight bytes a user; several collectors may share them, and a restart counts nobody twice.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import redis.asyncio
from redis.exceptions import RedisError

logger = logging.getLogger("slipway.capture")

QUIET_SECONDS = 3600.0
"""A version that was silent for so long and answers again is a new one: another rollout of it."""
_SHARDS = 4096
_TIMEOUT = 1.0
_COMPLAIN_SECONDS = 60.0
_PAUSE_SECONDS = 5.0
"""After a failure, so that a Redis which hangs does not hold up the predictions that are joined without it."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A request of a user, and the version that answered it."""

    model: str
    version: str
    user: str


class UserMemory(Protocol):
    """Remembers users."""

    async def first(self, sightings: Sequence[Sighting], now: float) -> list[bool]:
        """Remembers these users; returns for each whether it is the first sighting since counting started anew."""

    async def forget(self, user: str, models: Sequence[str]) -> None:
        """Forgets that a user was seen by these models; the next request counts as a first one."""

    async def close(self) -> None:
        """Lets go of connections."""


@dataclass
class _Model:
    seen: dict[str, float] = field(default_factory=dict)
    users: set[int] = field(default_factory=set)


class LocalUsers:
    """Remembers users in this process.

    Args:
        maximum: Users of a model; further ones are not counted, for no version.
        quiet: Seconds, see QUIET_SECONDS.
    """

    def __init__(self, *, maximum: int = 500_000, quiet: float = QUIET_SECONDS) -> None:
        self._maximum = maximum
        self._quiet = quiet
        self._models: dict[str, _Model] = {}

    async def first(self, sightings: Sequence[Sighting], now: float) -> list[bool]:
        """Remembers these users; see UserMemory."""
        return [self._is_first(sighting, now) for sighting in sightings]

    async def forget(self, user: str, models: Sequence[str]) -> None:
        """Forgets a user; see UserMemory."""
        for name in models:
            if name in self._models:
                self._models[name].users.discard(_place(user)[0])

    async def close(self) -> None:
        """Nothing to let go of."""

    def _is_first(self, sighting: Sighting, now: float) -> bool:
        model = self._models.setdefault(sighting.model, _Model())
        if now - model.seen.get(sighting.version, float("-inf")) > self._quiet:
            model.users.clear()
        model.seen[sighting.version] = now
        user, _ = _place(sighting.user)
        if user in model.users or len(model.users) >= self._maximum:
            return False
        model.users.add(user)
        return True


# KEYS: versions, prefix of the sets. ARGV: now, quiet, expiry, room in a set, number of sets, then triples of version,
# set and user. The numbers of a set's users are bounded, and its name holds the moment at which counting started anew.
_SCRIPT = """
local now, quiet, expiry, room = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local since = redis.call('HGET', KEYS[1], '') or ARGV[1]
local known, first = {}, {}
for i = 6, #ARGV, 3 do
  local version = ARGV[i]
  if not known[version] then
    known[version] = true
    local last = redis.call('HGET', KEYS[1], 'v' .. version)
    if not last or now - tonumber(last) > quiet then
      for shard = 0, tonumber(ARGV[5]) - 1 do redis.call('UNLINK', KEYS[2] .. since .. ':' .. shard) end
      since = ARGV[1] .. '-' .. version
    end
    redis.call('HSET', KEYS[1], 'v' .. version, ARGV[1], '', since)
    redis.call('EXPIRE', KEYS[1], expiry)
  end
  local key = KEYS[2] .. since .. ':' .. ARGV[i + 1]
  local new = 0
  if redis.call('SCARD', key) < room then new = redis.call('SADD', key, ARGV[i + 2]) end
  if new == 1 then redis.call('EXPIRE', key, expiry) end
  first[#first + 1] = new
end
return first
"""


class RedisUsers:
    """Remembers users in Redis. While it is away nobody is counted, for no version, so that no comparison is harmed.

    Args:
        url: Of Redis.
        project: Its name; keeps projects apart.
        maximum: Users of a model; further ones are not counted, for no version.
        quiet: Seconds, see QUIET_SECONDS.
        expiry: Seconds after which a set to which nobody was added is forgotten.
    """

    def __init__(
        self,
        url: str,
        *,
        project: str = "default",
        maximum: int = 2_000_000,
        quiet: float = QUIET_SECONDS,
        expiry: float = 30 * 86_400.0,
    ) -> None:
        self._client = redis.asyncio.Redis.from_url(
            url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, decode_responses=True
        )
        self._script = self._client.register_script(_SCRIPT)
        self._project = project
        self._settings = (quiet, round(expiry), max(1, maximum // _SHARDS), _SHARDS)
        self._complained = self._failed = float("-inf")

    async def first(self, sightings: Sequence[Sighting], now: float) -> list[bool]:
        """Remembers these users; see UserMemory."""
        result = [False] * len(sightings)
        if time.monotonic() - self._failed < _PAUSE_SECONDS:
            return result
        by_model: dict[str, list[int]] = {}
        for index, sighting in enumerate(sightings):
            by_model.setdefault(sighting.model, []).append(index)
        for model, indices in by_model.items():
            arguments: list[str | int | float] = [f"{now:.3f}", *self._settings]
            for index in indices:
                user, shard = _place(sightings[index].user)
                arguments += [sightings[index].version, shard, user]
            base = self._base(model)
            try:
                answers = await self._script(keys=[f"{base}versions", base], args=arguments)
            except (RedisError, OSError) as error:
                self._complain(error)
                return result
            for index, answer in zip(indices, answers, strict=True):
                result[index] = answer == 1
        return result

    async def forget(self, user: str, models: Sequence[str]) -> None:
        """Forgets a user; see UserMemory.

        Raises:
            RedisError: Redis does not answer.
        """
        member, shard = _place(user)
        for model in models:
            base = self._base(model)
            since = await self._client.hget(f"{base}versions", "")
            if since is not None:
                await self._client.srem(f"{base}{since!s}:{shard}", member)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    def _base(self, model: str) -> str:
        # The braces keep a model's keys in one slot of a cluster.
        return f"slipway:{self._project}:{{{model}}}:users:"

    def _complain(self, error: Exception) -> None:
        self._failed = moment = time.monotonic()
        if moment - self._complained >= _COMPLAIN_SECONDS:
            self._complained = moment
            logger.warning("Users are not counted while Redis does not answer: %s", error)


def _place(user: str) -> tuple[int, int]:
    """Returns a user as a signed 64-bit number, and the set that it belongs to."""
    digest = hashlib.blake2b(user.encode(), digest_size=10).digest()
    return int.from_bytes(digest[:8], "big", signed=True), int.from_bytes(digest[8:], "big") % _SHARDS
