"""`report.html`: a run on one page that needs no network and can be sent.

No scripts and nothing from elsewhere (the page forbids itself both), plots as inline SVG, pictures and sounds as data.
Texts of users are escaped wherever they come in: `charts.py`, `samples.py` and `_facts` do it themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ray_pipelines.report import charts
from ray_pipelines.report.metrics import RunReport
from ray_pipelines.report.samples import Sample, card
from ray_pipelines.report.style import CSS
from ray_pipelines.report.values import cut

__all__ = ["html_report"]

MAX_REASONS = 12
SHOWN_LEFT_OUT = 12
POINTS_OF_SPEED = 40
MAX_VALUE_CHARS = 400
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"


def html_report(report: RunReport, samples: Sequence[Sample] = ()) -> str:
    """The page.

    Args:
        report: What the run measured.
        samples: Some of its rows with their results.
    """
    provenance = report.provenance
    title = f"{provenance.get('task')} with {provenance.get('model')}"
    has_errors = f"{report.num_errors:,} dead letters" if report.num_errors else "no dead letters"
    body = [
        f'<header><span class="status{" bad" if report.num_errors else ""}">done, {has_errors}</span>'
        f"<h1>{escape(title)}</h1><p>run {escape(str(provenance.get('run_id')))} · {escape(report.plan)}</p></header>",
        _tiles(report),
        '<div class="grid2">',
        _section("Rows per second", _speed(report)),
        _section(f"Cost of inputs, in {report.figures.cost_unit or 'values'}", _costs(report)),
        "</div>",
        _section("What the time went to", _time(report)),
        _section("Tasks", _facts({name: own.share_of(report.figures) for name, own in report.tasks.items()}))
        if report.tasks
        else "",
        _section("Dead letters by reason", _errors(report)) if report.num_errors else "",
        _section("Some rows", f'<div class="cards">{"".join(map(card, samples))}</div>') if samples else "",
        '<div class="grid2">',
        _section("Checks", _facts(_checks(report))),
        _section("Where it comes from", _facts(_origin(provenance))),
        "</div>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{escape(title)}</title>'
        f"<style>{CSS}</style></head><body><main>{''.join(body)}"
        '<footer class="page">Written by ray_pipelines. The same figures are in report.json.</footer>'
        "</main></body></html>"
    )


def _tiles(report: RunReport) -> str:
    figures = report.figures
    tiles = [
        (f"{report.num_results:,}", f"results of {report.num_rows:,} rows", ""),
        (f"{report.num_errors:,}", "dead letters", "bad" if report.num_errors else ""),
        (charts.short(report.rows_per_s), "rows per second", ""),
        (duration(report.elapsed_s), f"in all, {duration(report.startup_s)} of start-up", ""),
        (f"{figures.device_busy:.0%}", f"device busy ({figures.device or 'unknown'}, {figures.dtype})", ""),
        (f"{figures.padding:.1%}", "of the input was padding", ""),
    ]
    if report.cost:
        tiles.append((f"{report.cost['run']:,.4g}", "cost of the run", ""))
        tiles.append((f"{report.cost['million_rows']:,.4g}", "cost of a million rows", ""))
    if report.certificate and report.certificate.num_rows:
        equal = report.certificate.share_equal
        tiles.append((f"{equal:.1%}", "of the checked rows agree", "bad" if equal < 1 else ""))
    cells = "".join(
        f'<div class="tile {kind}"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for value, name, kind in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _speed(report: RunReport) -> str:
    """Rows per second once workers are loaded, each point over some time: blocks come in bursts."""
    points = report.timeline
    if len(points) < 2:
        return charts.line([], "", "")
    (first_s, first), (last_s, _) = points[0], points[-1]
    apart = max((last_s - first_s) / POINTS_OF_SPEED, 1e-3)
    speeds, since_s, since = [], first_s, first
    for late_s, late in points[1:]:
        if late_s - since_s >= apart:
            speeds.append((late_s, (late - since) / (late_s - since_s)))
            since_s, since = late_s, late
    return charts.line(speeds, "seconds", "rows/s", report.rows_per_s)


def _costs(report: RunReport) -> str:
    counts = {int(name): count for name, count in report.cost_counts.items()}
    if not counts:
        return charts.columns([], "", "")
    names = range(min(counts), max(counts) + 1)
    unit = report.figures.cost_unit
    return charts.columns([(f"<{charts.short(1 << n)}", counts.get(n, 0)) for n in names], unit, "rows or chunks")


def _time(report: RunReport) -> str:
    figures = report.figures
    facts = {
        "inputs": f"{figures.cost_per_s:,.0f} {figures.cost_unit}/s, {figures.padding:.1%} padding",
        "batches": f"{figures.forwards:,} forwards of {figures.chunks_per_forward:,.1f} on average",
        "waiting": f"{figures.device_idle:.0%} of the workers' time",
        "cut at the maximum length": f"{figures.truncated_rows:,} rows" if figures.truncated_rows else "",
        "halved, out of memory": f"{figures.out_of_memory_splits:,}" if figures.out_of_memory_splits else "",
        "generated": f"{figures.generated_tokens:,} tokens" if figures.generated_tokens else "",
        "audio": f"{figures.audio_s_per_s:,.1f} seconds per second" if figures.audio_s_per_s else "",
    }
    shares = dict(sorted(figures.step_shares.items(), key=lambda item: -item[1]))
    advice = f'<p class="advice"><b>Next:</b> {escape(figures.advice)}</p>' if figures.advice else ""
    return charts.share_bar(shares, figures.step_seconds) + "<br>" + _facts(facts) + advice


def _errors(report: RunReport) -> str:
    reasons = dict(sorted(report.reasons.items(), key=lambda item: -item[1]))
    shown = dict(list(reasons.items())[:MAX_REASONS])
    if len(reasons) > MAX_REASONS:
        shown["all others"] = sum(reasons.values()) - sum(shown.values())
    return charts.named_bars(shown, "errors")


def _checks(report: RunReport) -> Mapping[str, Any]:
    certificate = str(report.certificate) if report.certificate else "not asked for (verify: 64 in the job)"
    agreement = str(report.agreement) if report.agreement else ""
    forecast = report.forecast.describe(report.elapsed_s) if report.forecast else "nobody foretold anything"
    return {
        "same as the plain pipeline": certificate,
        "what precision has changed": agreement,
        "time": forecast,
        "every row accounted for": f"{report.num_results:,} + {report.num_errors:,} = {report.num_rows:,}",
        "left out, as no sampled row had it": _left_out(report),
        "result files": f"{len(report.results_files):,}",
        "dead letter files": f"{len(report.dead_letters_files):,}",
    }


def _left_out(report: RunReport) -> str:
    names = [f"{name}, in {count:,} row(s)" for name, count in list(report.left_out.items())[:SHOWN_LEFT_OUT]]
    return ", ".join(filter(None, [*names, report.more_left_out(SHOWN_LEFT_OUT)]))


def _origin(provenance: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: _as_text(value) for name, value in provenance.items() if value not in (None, {}, [])}


def _as_text(value: Any) -> str:
    if isinstance(value, Mapping) and all(isinstance(item, str) for item in value.values()):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _facts(facts: Mapping[str, Any]) -> str:
    rows: Iterable[str] = (
        f"<dt>{escape(name)}</dt><dd>{escape(cut(str(value), MAX_VALUE_CHARS))}</dd>"
        for name, value in facts.items()
        if value
    )
    return f'<dl class="facts">{"".join(rows)}</dl>'


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def duration(seconds: float) -> str:
    """Seconds in the two largest units.

    >>> [duration(seconds) for seconds in (4.25, 75, 7300)]
    ['4.2 s', '1 min 15 s', '2 h 1 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
