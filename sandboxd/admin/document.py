"""Makes the status document from the reports of all cells. docs/status.md describes its members."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sandboxd.admin.history import PERIOD_S, POINTS, Track, quantile
from sandboxd.admin.report import BindingReport, PoolReport, Report
from sandboxd.metrics import SECONDS, SHORT_SECONDS
from sandboxd.metrics.journal import FailureNote
from sandboxd.metrics.totals import NOT_FAILURES

MAX_FAILURES: Final = 50
"""The most failures in the document: the latest ones of all bindings."""
_BINDINGS_AT_ONCE: Final = 10
_NOT_FAILURES: Final = frozenset(outcome.value for outcome in NOT_FAILURES)

Json = dict[str, Any]


def added(many: Sequence[Sequence[int]]) -> list[int]:
    """Return the sum of each bucket over several rows of counts. An empty row is left out."""
    rows = [row for row in many if row]
    return [sum(column) for column in zip(*rows, strict=True)] if rows else []


async def document(reports: Sequence[Report], about: Mapping[str, Any]) -> Json:
    """Return the status document. It is made in pieces, and the event loop serves requests in between.

    Parameters:
        reports: the report of each cell, at least one.
        about: the members of `server` that are the same in all cells: version, appId, host.
    """
    now = time.time()
    reports = sorted(reports, key=lambda report: report.cell)
    by_name: dict[str, list[BindingReport]] = {}
    for report in reports:
        for binding in report.bindings:
            by_name.setdefault(binding.name, []).append(binding)
    bindings = []
    for number, name in enumerate(sorted(by_name), 1):
        bindings.append(_binding(by_name[name], now))
        if number % _BINDINGS_AT_ONCE == 0:
            await asyncio.sleep(0)
    periods = _periods(reports)
    notes = [note for report in reports for binding in (report.unnamed, *report.bindings) for note in binding.failures]
    return {
        "at": now,
        "server": _server(reports, about, now),
        "front": _front(reports, periods),
        "pools": {
            label: _pool([report.pools[label] for report in reports if label in report.pools])
            for label in dict.fromkeys(label for report in reports for label in report.pools)
        },
        "bindings": bindings,
        "workers": [_worker(report.cell, worker) for report in reports for worker in report.workers],
        "warm": _sums([report.warm for report in reports]),
        "unnamed": _sums([report.unnamed.outcomes for report in reports]),
        "failures": [_failure(note) for note in sorted(notes, key=lambda note: -note.at)[:MAX_FAILURES]],
        "history": _history(reports, periods),
    }


def binding_document(reports: Sequence[Report], name: str) -> Json | None:
    """Return the further members of one binding's document: its failures, and the heat map of its latencies.

    Parameters:
        reports: the report of each cell.
        name: the binding.

    Returns:
        the members; None if there is no such binding.
    """
    found = [binding for report in reports for binding in report.bindings if binding.name == name]
    if not found:
        return None
    notes = sorted((note for binding in found for note in binding.failures), key=lambda note: -note.at)
    return {
        "name": name,
        "failures": [_failure(note) for note in notes],
        "heat": {
            "bounds": list(SECONDS),
            "rows": [added(rows) for rows in _aligned([binding.track.rows() for binding in found])],
        },
    }


def _server(reports: Sequence[Report], about: Mapping[str, Any], now: float) -> Json:
    ready = [report for report in reports if not report.missing]
    waiting = next((report for report in reports if report.missing), None)
    refused = next((report for report in reports if not report.reload_ok), None)
    return {
        **about,
        "state": "ready" if ready else "draining" if "draining" in reports[0].missing else "waiting",
        "cells": len(reports),
        "cellsReady": len(ready),
        "missing": list(waiting.missing) if waiting is not None else [],
        "waitsFor": waiting.waits_for if waiting is not None else "",
        "pids": [report.pid for report in reports],
        "startedAt": min(report.began for report in reports),
        "uptimeSeconds": now - min(report.began for report in reports),
        "reload": {
            "ok": refused is None,
            "at": min(report.reload_at for report in reports),
            "error": refused.reload_error if refused is not None else "",
        },
        "rssBytes": sum(report.rss_bytes for report in reports),
        "descriptors": max(report.fds for report in reports),
    }


def _front(reports: Sequence[Report], periods: Sequence[int]) -> Json:
    last = [point for report in reports for point in report.server if periods and point.period == periods[-1]]
    return {
        "threads": len(reports),
        "utilisation": sum(point.cpu_s for point in last) / PERIOD_S / len(reports) if last else None,
        "lagSeconds": max(report.lag_s for report in reports),
        "worstLagSeconds": max((point.lag_ms / 1000 for report in reports for point in report.server), default=0.0),
    }


def _pool(parts: Sequence[PoolReport]) -> Json:
    return {
        "workers": {
            "idle": sum(part.idle for part in parts),
            "busy": sum(part.busy for part in parts),
            "starting": sum(part.starting for part in parts),
            "draining": sum(part.draining for part in parts),
            "limit": sum(part.limit for part in parts),
        },
        "busySeconds": sum(part.busy_s for part in parts),
        "queue": sum(part.queue for part in parts),
        "queueLimit": sum(part.queue_limit for part in parts),
        "queueMost": max(part.queue_max for part in parts),
        "saturated": sum(part.saturated for part in parts),
        "rejected": _sums([part.rejected for part in parts]),
        "starts": sum(part.starts for part in parts),
        "exits": _sums([part.exits for part in parts]),
        "redelivered": sum(part.redelivered for part in parts),
        "brokerRestarts": sum(part.broker_restarts for part in parts),
        "generations": [part.generation for part in parts],
        "wall": {layer: all(part.wall.get(layer, False) for part in parts) for layer in parts[0].wall},
    }


def _worker(cell: int, report: Any) -> Json:
    status = report.status
    return {
        "cell": cell,
        "pool": status.pool,
        "serial": status.serial,
        "pid": status.pid,
        "state": status.state,
        "generation": status.generation,
        "bindings": list(status.bindings),
        "forSeconds": status.for_s,
        "ageSeconds": status.age_s,
        "runs": status.runs,
        "rssBytes": report.rss_bytes,
        "cpuSeconds": report.cpu_s,
    }


def _binding(parts: Sequence[BindingReport], now: float) -> Json:
    first = parts[0]
    outcomes = _sums([part.outcomes for part in parts])
    total = sum(outcomes.values())
    failed = sum(number for outcome, number in outcomes.items() if outcome not in _NOT_FAILURES)
    tracks = [part.track for part in parts]
    recent_requests = sum(track.recent_requests for track in tracks)
    runs = sum(part.runs for part in parts)
    durations = added([track.minute for track in tracks])
    notes = [part.failures[-1] for part in parts if part.failures]
    last = max(notes, key=lambda note: note.at) if notes else None
    return {
        "name": first.name,
        "kind": first.abi,
        "digest": first.digest,
        "ready": all(part.ready for part in parts),
        "why": next((part.why for part in parts if part.why), ""),
        "now": sum(part.now for part in parts),
        "limit": sum(part.limit for part in parts),
        "queue": sum(part.queue for part in parts),
        "requests": total,
        "failed": failed,
        "outcomes": outcomes,
        "rate": sum(track.recent_requests / track.recent_s for track in tracks if track.recent_s),
        "okShare": 1 - sum(track.recent_failed for track in tracks) / recent_requests
        if recent_requests
        else (1 - failed / total if total else None),
        "p50Seconds": quantile(SECONDS, durations, 0.5),
        "p99Seconds": quantile(SECONDS, durations, 0.99),
        "timeoutSeconds": first.timeout_ms / 1000,
        "wait99Seconds": quantile(SHORT_SECONDS, added([part.wait for part in parts]), 0.99),
        "guestSeconds": sum(part.guest_s for part in parts) / runs if runs else None,
        "cpuSeconds": sum(part.cpu_s for part in parts),
        "cpuPerRunSeconds": sum(part.cpu_s for part in parts) / runs if runs else None,
        "cpuUse": sum(track.recent_cpu_s / track.recent_s for track in tracks if track.recent_s),
        "memoryPeakBytes": max(part.memory_peak for part in parts),
        "memoryLimitBytes": first.memory_limit,
        "stdinBytes": sum(part.stdin_bytes for part in parts),
        "stdoutBytes": sum(part.stdout_bytes for part in parts),
        "outbound": sum(part.outbound for part in parts),
        "denied": sum(part.denied for part in parts),
        "deniedHosts": _sums([part.denied_hosts for part in parts]),
        "limitsReached": _sums([part.limits for part in parts]),
        "lastFailure": None
        if last is None
        else {"at": last.at, "secondsAgo": now - last.at, "outcome": last.outcome, "reason": last.reason},
        "history": _binding_history(tracks),
    }


def _binding_history(tracks: Sequence[Track]) -> Json:
    if len(tracks) == 1:
        track = tracks[0]
        return {"requests": track.requests, "failed": track.failed, "p99Seconds": track.p99_s}
    return {
        "requests": [sum(column) for column in _aligned([track.requests for track in tracks])],
        "failed": [sum(column) for column in _aligned([track.failed for track in tracks])],
        # That of the worst cell, since a caller may reach it.
        "p99Seconds": [
            max((value for value in column if value is not None), default=None)
            for column in _aligned([track.p99_s for track in tracks])
        ],
    }


def _aligned(many: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Return the values of the cells for each period, the oldest first. All rows end with the same period."""
    most = max(len(one) for one in many)
    return [[one[len(one) - back] for one in many if len(one) >= back] for back in range(most, 0, -1)]


def _failure(note: FailureNote) -> Json:
    return {
        "binding": note.binding,
        "at": note.at,
        "outcome": note.outcome,
        "protocol": note.protocol,
        "reason": note.reason,
        "stderr": note.stderr,
        "traceId": note.trace_id,
        "requestId": note.request_id,
        "durationMs": note.duration_ms,
    }


def _periods(reports: Sequence[Report]) -> list[int]:
    return sorted({point.period for report in reports for point in report.server})[-POINTS:]


def _history(reports: Sequence[Report], periods: Sequence[int]) -> Json:
    limit = sum(pool.limit for report in reports for pool in report.pools.values())
    by_period = {period: [p for r in reports for p in r.server if p.period == period] for period in periods}
    return {
        "periodSeconds": PERIOD_S,
        "endsAt": (periods[-1] + 1) * PERIOD_S if periods else None,
        "utilisation": [sum(p.busy_s for p in by_period[n]) / PERIOD_S / max(1, limit) for n in periods],
        "frontUtilisation": [sum(p.cpu_s for p in by_period[n]) / PERIOD_S / len(reports) for n in periods],
        "queue": [sum(p.queue for p in by_period[n]) for n in periods],
        "lagSeconds": [max(p.lag_ms for p in by_period[n]) / 1000 for n in periods],
        "requests": [sum(p.requests for p in by_period[n]) for n in periods],
        "p99Seconds": [quantile(SECONDS, added([p.durations for p in by_period[n]]), 0.99) for n in periods],
    }


def _sums(many: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in many:
        for key, value in one.items():
            found[key] = found.get(key, 0) + value
    return found
