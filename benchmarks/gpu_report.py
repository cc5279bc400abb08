"""Human-readable results of a GPU: a row per peer, and the metrics with a goal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from goal_metrics import GoalMetric, aligned
from peers import Peer, ratio

from svg_runtime.live.timing import RecentValues

EAGER, COMPILED, OURS = "PyTorch eager", "torch.compile", "svg-edge "  # beginnings of the names of peers
OVER_EAGER, OVER_COMPILED = 5.0, 1.5  # times as fast at least, in the same precision
WAITS, IDLE_PERCENT = 1, 10.0  # at most

HEADINGS = (
    "peer", "total ms, p50", "p95", "p99", "host, p50", "device, p50", "launches", "waits", "idle", "roofline",
    f"x {EAGER}", f"x {COMPILED}", "frames",
)  # fmt: skip
_TIMES = {"total_ms": "seconds", "host_ms": "host_seconds", "device_ms": "device_seconds"}


def case_rows(peers: list[Peer]) -> list[dict[str, Any]]:
    """The peers of one case as a result keeps them: percentiles in place of the times of every round, and ratios.

    `faster` is how many times as fast a peer is as the eager one, and as the faster compiled one, of the same precision.
    """
    return [_row(peer, peers) for peer in peers]


def cells(row: dict[str, Any]) -> list[str]:
    """A row of `case_rows` as cells under HEADINGS. The last cell of a peer that is not available has the reason."""
    name = f"{row['name']}, {row['precision']}"
    if "reason" in row:
        return [name, *("-" for _ in HEADINGS[1:-1]), row["reason"]]
    trace = row["trace"] if "launches" in row["trace"] else {}
    return [
        name,
        *(_number(row["total_ms"].get(percentile)) for percentile in ("p50", "p95", "p99")),
        *(_number(row[times].get("p50")) for times in ("host_ms", "device_ms")),
        *(str(trace.get(count, "-")) for count in ("launches", "waits")),
        f"{trace['idle_share']:.0%}" if trace else "-",
        f"{row['roofline']['share']:.1%}" if row["roofline"] else "-",
        *(_number(row["faster"].get(key)) for key in (EAGER, COMPILED)),
        row["closeness"],
    ]


def gpu_table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as lines of a table."""
    return aligned([HEADINGS, *map(cells, rows)])


def gpu_markdown(rows: list[dict[str, Any]]) -> list[str]:
    """Lines of a table in Markdown."""
    lines = [HEADINGS, ["---"] * len(HEADINGS), *map(cells, rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def gpu_metrics(peers: list[Peer], what: str) -> Iterator[GoalMetric]:
    """For each precision, for our fastest backend: how many times as fast as the yardsticks, waits, and idle time.

    Args:
        peers: of one case.
        what: the model, for the metrics' names.
    """
    for precision in dict.fromkeys(peer.precision for peer in peers):
        fastest, others = _fastest(peers, OURS, precision), _yardsticks(peers, precision)
        if fastest is None:
            continue
        name = f"{fastest.name.removeprefix(OURS)} {precision}"
        for key, goal in ((EAGER, OVER_EAGER), (COMPILED, OVER_COMPILED)):
            if key in others:
                title = f"{name} over {others[key].name} {precision}: {what}"
                yield GoalMetric(title, ratio(others[key], fastest), "x", goal, at_least=True)
        if "waits" in fastest.trace:
            yield GoalMetric(f"{name}, waits of the host in a forecast: {what}", fastest.trace["waits"], "", WAITS)
            idle = 100 * fastest.trace["idle_share"]
            yield GoalMetric(f"{name}, device idle within a forecast: {what}", idle, "%", IDLE_PERCENT)


def summary_ms(seconds: list[float]) -> dict[str, float]:
    """p50, p95, p99, mean, max and count, in milliseconds; empty without a value."""
    values = RecentValues(max(len(seconds), 1))
    for each in seconds:
        values.add(each * 1e3)
    return values.summary()


def _row(peer: Peer, peers: list[Peer]) -> dict[str, Any]:
    about: dict[str, Any] = {"name": peer.name, "precision": peer.precision}
    if not peer.seconds:
        return {**about, "reason": peer.reason}
    times = {name: summary_ms(getattr(peer, seconds)) for name, seconds in _TIMES.items()}
    faster = {key: round(ratio(other, peer), 3) for key, other in _yardsticks(peers, peer.precision).items()}
    about |= {"max_error": peer.max_error, "first_frame_db": peer.first_frame_db, "closeness": peer.closeness}
    return {**about, **times, "faster": faster, "trace": peer.trace, "roofline": peer.roofline}


def _yardsticks(peers: list[Peer], precision: str) -> dict[str, Peer]:
    """The peers that ours are compared with in this precision: the eager one, and the fastest compiled one."""
    found = {key: _fastest(peers, key, precision) for key in (EAGER, COMPILED)}
    return {key: peer for key, peer in found.items() if peer is not None}


def _fastest(peers: list[Peer], beginning: str, precision: str) -> Peer | None:
    timed = [peer for peer in peers if peer.name.startswith(beginning) and peer.precision == precision and peer.seconds]
    return min(timed, key=lambda peer: peer.median_s, default=None)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
