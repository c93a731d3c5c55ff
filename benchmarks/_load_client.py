"""A client that asks at fixed times: ``python -m benchmarks._load_client PLAN``.

Requests are due at times that do not depend on the answers, and latency is counted from
when a request was due: a server that stalls is not asked less, and all that waits for
it shows. Connections are kept open, and no more are opened than the plan says. A line
of JSON is written for each window of time that has been answered, and one at the end.
"""

import asyncio
import itertools
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

#: Seconds after which an answer is no longer waited for.
PATIENCE = 120.0
#: Seconds before the first request.
LEAD = 0.2


@dataclass(frozen=True)
class Plan:
    """Who asks how often.

    ``images`` is a file of rows. There are ``windows`` windows of ``window`` seconds.
    Of ``rate`` requests a second, ``above`` accounts ask ``pace`` times ``limit`` each,
    and as many others as it takes ask for the rest, each ``share`` of ``limit`` at
    most. Names of accounts begin with ``name``.
    """

    port: int
    images: str
    rate: float
    window: float
    windows: int
    limit: float
    connections: int
    above: int = 2
    pace: float = 2.0
    share: float = 0.5
    name: str = "steady"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.of_above > self.rate:
            raise ValueError(
                f"{self.rate} requests a second are too few for {self.above} accounts "
                "above their limit"
            )

    @property
    def of_above(self) -> float:
        """Requests a second of those who ask above their limit."""
        return self.above * self.pace * self.limit

    @property
    def n_below(self) -> int:
        return int(np.ceil((self.rate - self.of_above) / (self.share * self.limit)))

    @property
    def a_window(self) -> int:
        """Requests due in one window."""
        return max(1, int(self.rate * self.window))

    @property
    def n_requests(self) -> int:
        return self.a_window * self.windows

    def names_above(self) -> list[str]:
        return [f"{self.name}-above-{i}" for i in range(self.above)]

    def account(self, i: int) -> str:
        """Return who asks the request of this number."""
        before, after = (int(k * self.of_above / self.rate) for k in (i, i + 1))
        if after > before:
            return f"{self.name}-above-{before % self.above}"
        return f"{self.name}-below-{(i - before) % self.n_below}"


class Tally:
    """What came of requests, window by window of the times at which they were due."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._open: dict[int, list[tuple[float, float, int]]] = defaultdict(list)
        self.accounts: dict[str, Counter[str]] = defaultdict(Counter)
        #: when an account's first and last request were sent and answered, by the clock
        self.first: dict[str, list[float]] = {}
        self.last: dict[str, list[float]] = {}

    def add(
        self,
        i: int,
        waited: float,
        took: float,
        status: int,
        clock: list[float],
    ) -> dict[str, Any] | None:
        """Add a request; return a summary of its window when that is complete.

        ``waited`` and ``took`` are seconds from when it was due until it was sent, and
        until it was answered; the status is 0 where there was no answer.
        """
        account = self._plan.account(i)
        self.accounts[account][str(status)] += 1
        self.first[account] = min(self.first.get(account, clock), clock)
        self.last[account] = max(self.last.get(account, clock), clock)
        size = self._plan.a_window
        window = self._open[i // size]
        window.append((waited, took, status))
        return self._closed(i // size) if len(window) == size else None

    def _closed(self, number: int) -> dict[str, Any]:
        waited, took, statuses = zip(*self._open.pop(number), strict=True)
        median, late = np.quantile(took, [0.5, 0.99])
        return {
            "window": number,
            "statuses": dict(sorted(Counter(map(str, statuses)).items())),
            "median": _milliseconds(median),
            "p99": _milliseconds(late),
            "slowest": _milliseconds(max(took)),
            "sent late": _milliseconds(max(waited)),
        }


def _milliseconds(seconds: float) -> float:
    return float(f"{1e3 * seconds:.4g}")


class Connection:
    """A connection that is kept open, and opened again where it was lost."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, account: str, body: bytes) -> int:
        """Return the status of the answer, 0 where there is none."""
        head = (
            f"POST /predict HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\n"
            f"x-account: {account}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        ).encode("ascii")
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._asked(head + body)
        except (OSError, EOFError, TimeoutError, ValueError):
            self.close()
            return 0

    async def _asked(self, request: bytes) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        (length,) = (
            int(line[15:]) for line in lines if line.startswith(b"content-length:")
        )
        await reader.readexactly(length)
        if b"connection: close" in lines:
            self.close()
        return int(lines[0].split()[1])

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def rows(images: np.ndarray, seed: int) -> Callable[[], bytes]:
    """Return what makes bodies: images with noise, so that no two rows are alike."""
    rng = np.random.default_rng(seed)

    def body() -> bytes:
        row = images[rng.integers(len(images))]
        row = row + rng.uniform(-0.1, 0.1, len(row))
        return json.dumps({"instances": [row.clip(0, 1).round(4).tolist()]}).encode()

    return body


async def ask(plan: Plan, tell: Callable[[dict[str, Any]], None]) -> Tally:
    """Ask all that is planned; call ``tell`` with each window."""
    tally, body, numbers = (
        Tally(plan),
        rows(np.load(plan.images), plan.seed),
        itertools.count(),
    )
    begin = time.perf_counter() + LEAD

    async def serve(connection: Connection) -> None:
        while (i := next(numbers)) < plan.n_requests:
            due, account, asked = i / plan.rate, plan.account(i), body()
            if (early := begin + due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            sent, clock = time.perf_counter() - begin, [time.time()]
            status = await connection.post(account, asked)
            took = time.perf_counter() - begin - due
            clock.append(time.time())
            told = tally.add(i, sent - due, took, status, clock)
            if told is not None:
                tell(told)
        connection.close()

    await asyncio.gather(
        *(serve(Connection(plan.port)) for _ in range(plan.connections))
    )
    return tally


def main() -> None:
    plan = Plan(**json.loads(sys.argv[1]))
    tally = asyncio.run(ask(plan, lambda told: print(json.dumps(told), flush=True)))
    print(
        json.dumps(
            {
                "plan": asdict(plan),
                "accounts": tally.accounts,
                "first": tally.first,
                "last": tally.last,
            }
        )
    )


if __name__ == "__main__":
    main()
