"""A store for many hosts. Each operation is one Lua script, one round trip."""

from __future__ import annotations

import math
import os
from typing import Any

from sk_advdef.concealment._columns import Bounds
from sk_advdef.concealment._store import PAGE, Entry, StoreError

NOW = """
local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end
"""

HIT = (
    NOW
    + """
local tolerance, now, force = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
if now < 0 then now = clock() end
local most = now + 2 * tolerance
local function keep(key, until_)
  local left = math.max(math.ceil((until_ - now) / 1000), 0) + 60000
  redis.call('SET', key, string.format('%.0f', until_),
    'PX', string.format('%.0f', left))
end
local new, back, longest = {}, {}, 0
for i, key in ipairs(KEYS) do
  local debit = tonumber(ARGV[3 + i])
  local start = math.max(tonumber(redis.call('GET', key) or 0), now)
  if start > most then
    start = most
    back[#back + 1] = key
  end
  new[i] = start + debit
  if force then
    new[i] = math.min(new[i], most)
  else
    longest = math.max(longest, new[i] - now - tolerance)
  end
end
if longest > 0 then
  for _, key in ipairs(back) do keep(key, most) end
  return longest
end
for i, key in ipairs(KEYS) do keep(key, new[i]) end
return 0
"""
)

#: A log of another form has another name.
LOG = b"log2:"

#: Seconds after which an idle log goes, at least and at most.
LEAST_AGE, MOST_AGE = 1, 366 * 86400

# A new counter starts at the clock, so that numbers never come twice, also where the
# server has lost everything. Marks hold the last number of each 64th part of a
# lifetime, by the end of that part: what ended a lifetime ago is too old. Where
# guards differ in how long they remember, the log is as short as the shortest.
APPEND = (
    NOW
    + """
local cursor, quota, keep = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local page, age, n = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local log, counter, marks = KEYS[1], KEYS[2], KEYS[3]
local now = clock()
if redis.call('EXISTS', counter) == 0 then
  redis.call('SET', counter, string.format('%.0f', now))
end
local last = redis.call('INCRBY', counter, n)
local first = last - n + 1
for i = 1, n do
  local number = string.format('%016.0f', first + i - 1)
  redis.call('ZADD', log, number, number .. ARGV[5 + 2 * i] .. ARGV[6 + 2 * i])
  local mine = KEYS[3 + i]
  redis.call('RPUSH', mine, number)
  while redis.call('LLEN', mine) > quota do
    local oldest = redis.call('LPOP', mine)
    redis.call('ZREMRANGEBYSCORE', log, oldest, oldest)
  end
  redis.call('EXPIRE', mine, age)
end
-- what goes leaves the list of its account too, which ends with its last entry
for _, member in ipairs(redis.call('ZRANGE', log, 0, -keep - 1)) do
  local number = string.sub(member, 1, 16)
  local mine = log .. ':of:' .. string.sub(member, 17, 32)
  local oldest = redis.call('LINDEX', mine, 0)
  while oldest and oldest <= number do
    redis.call('LPOP', mine)
    oldest = redis.call('LINDEX', mine, 0)
  end
  redis.call('ZREM', log, member)
end
local step = age * 1000000 / 64
local slot = string.format('%.0f', (math.floor(now / step) + 1) * step)
redis.call('ZREMRANGEBYSCORE', marks, slot, slot)
redis.call('ZADD', marks, slot, string.format('%.0f', last))
local before = string.format('%.0f', now - 64 * step)
local old = redis.call('ZREVRANGEBYSCORE', marks, before, '-inf', 'LIMIT', 0, 1)[1]
if old then
  redis.call('ZREMRANGEBYSCORE', log, '-inf', old)
  redis.call('ZREMRANGEBYSCORE', marks, '-inf', before)
end
for _, key in ipairs({log, counter, marks}) do redis.call('EXPIRE', key, age) end
local others = redis.call('ZRANGEBYSCORE', log,
  '(' .. string.format('%.0f', cursor), '(' .. string.format('%.0f', first),
  'LIMIT', 0, page)
return {string.format('%.0f', first), others}
"""
)


class RedisStore:
    """A Redis server, version 5 or newer, by the ``redis`` package.

    Nothing is tried twice: a debit whose answer was lost would count twice. An entry
    of the log is its number, the 16 bytes of its account, and the record.
    """

    is_shared = True

    def __init__(
        self, uri: str, timeout: float, password_env: str = "", prefix: str = ""
    ) -> None:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise ImportError(
                "A store at redis:// needs the redis package. Install it with "
                'pip install "sk_advdef[redis]".'
            ) from error
        if password_env and not os.environ.get(password_env):
            raise ValueError(
                f"The environment variable {password_env} that should hold the "
                "password of redis is not set."
            )
        self._client = redis.Redis.from_url(
            uri,
            password=os.environ.get(password_env) if password_env else None,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
        )
        self._prefix = (prefix or "sk_advdef").encode() + b":"
        self._hit = self._client.register_script(HIT)
        self._append = self._client.register_script(APPEND)

    def _call(self, ask: Any, *args: Any, **kwargs: Any) -> Any:
        import redis

        try:
            return ask(*args, **kwargs)
        except (redis.RedisError, OSError) as error:
            raise StoreError(f"redis: {error}") from error

    def hit(
        self,
        debits: dict[bytes, int],
        tolerance: int,
        now: int | None = None,
        *,
        force: bool = False,
    ) -> int:
        """Take the debits of all keys, or of none."""
        keys = [self._prefix + b"ahead:" + key for key in debits]
        args = [tolerance, -1 if now is None else now, int(force), *debits.values()]
        return int(self._call(self._hit, keys=keys, args=args))

    def _log(self, stream: str) -> bytes:
        return self._prefix + LOG + stream.encode()

    def append(
        self, stream: str, entries: list[Entry], cursor: int, bounds: Bounds
    ) -> tuple[int, list[tuple[int, bytes]]]:
        """Append to the log, and read what others did."""
        log = self._log(stream)
        owners = (log + b":of:" + entry.account for entry in entries)
        first, others = self._call(
            self._append,
            keys=[log, log + b":counter", log + b":marks", *owners],
            args=[
                cursor,
                bounds.quota,
                bounds.rows,
                PAGE,
                math.ceil(min(max(bounds.age, LEAST_AGE), MOST_AGE)),
                len(entries),
                *(part for entry in entries for part in entry),
            ],
        )
        return int(first), [self._parted(member) for member in others]

    @staticmethod
    def _parted(member: bytes) -> tuple[int, bytes]:
        return int(member[:16]), member[32:]

    def read(self, stream: str, cursor: int, stop: int) -> list[tuple[int, bytes]]:
        """Read what others appended."""
        members = self._call(
            self._client.zrangebyscore,
            self._log(stream),
            f"({cursor}",
            f"({stop}",
            start=0,
            num=PAGE,
        )
        return [self._parted(member) for member in members]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
