"""The account as a table: what the paged KV cache costs, what the replay predicts, what is left between."""

from __future__ import annotations

from typing import Any

from harness.analysis import stats
from harness.analysis.rows import find
from harness.experiments.prefill.breakdown import break_even_table, decimals, synthetic_table, where_table
from harness.report.rows import Row, with_reason
from harness.report.tables import NONE, Line, Notes, Section, Table, interval_of, percent, signed
from harness.units import counted

COSTS = ("fragmentation", "paging", "cache_write", "total")
BESIDE = ("allocation", "hooks", "compact")
ACCOUNT = ("", "measured", "% of {whole} [95%]", "verdict", "predicted", "closure")
ACCOUNT_FULL = (
    *("", "measured ms [95%]", "% of {whole} [95%]", "verdict", "pairs"),
    *("predicted ms [95%]", "% of {whole}", "closure ms [95%]", "% of measured"),
)


def sentence(summary: Row) -> str:
    """The account in one sentence; "" if nothing was attributed."""
    account = summary.get("attribution")
    return account["sentence"] if account else ""


def tables(summary: Row, full: bool = False) -> list[Table]:
    """The tables of a summary's attribution; none without it.

    They fit a screen of 80 columns; `full` ones have every interval.
    """
    account = summary.get("attribution")
    if not account:
        return []
    others = (where_table(account, full), synthetic_table(account, full), break_even_table(account, full))
    return [_account(account, full), *(table for table in others if table)]


def host_line(host: Row) -> str:
    """Whether the step waits for the GPU or for the host, and what that rests on."""
    facts = [host["verdict"]]
    if host["gpu_busy_pct"] is not None:
        facts.append(f"the GPU is busy for {host['gpu_busy_pct']:.0f}% of the step")
    if host["pass_through_pct"] is not None:
        through = percent(host["pass_through_pct"], host["ci95_pct"], digits=0, sign=False)
        planted = f"{host['planted_ms']:.3f} ms" if host["planted_ms"] is not None else "the GPU time"
        facts.append(f"of {planted} planted ahead of the layers' attention {through} reached the latency")
    return "Host or GPU: " + "; ".join([*facts, *([host["reason"]] if host["reason"] else [])])


def _account(account: Row, full: bool) -> Table:
    """What was measured, what the replay predicts, and what is left between."""
    notes, whole = Notes(), "engine" if account["engine_ms"] is not None else "paged 1"
    if shared := _shared_remark(account):  # said once, below the table
        account = account | {"predicted": [_without(row, shared) for row in account["predicted"]]}
    columns = tuple(column.format(whole=whole) for column in (ACCOUNT_FULL if full else ACCOUNT))
    groups = [[row for row in account["measured"] if row["component"] in part] for part in (COSTS, BESIDE)]
    lines = [[_component(account, row, full, notes) for row in group] for group in groups]
    sections = [Section("", group) for group in lines if group]
    below = [*notes.lines(), *_account_legend(account, shared), *_costly_hooks(account)]
    below.append(host_line(account["host_bound"]))
    title = "How much of the prefill is the paged KV cache?"
    return Table(title, columns, sections, [_engine_line(account)], below)


def _component(account: Row, row: Row, full: bool, notes: Notes) -> Line:
    name, digits = row["component"], decimals(account)
    predicted, closure = (find(account[key], component=name) for key in ("predicted", "closure"))
    measured = with_reason(interval_of(row["ms"], row["ci95_ms"] if full else None, digits), row, notes)
    share = percent(row["pct"], row["ci95_pct"]) if row["pct"] is not None else NONE
    forecast = interval_of(_get(predicted, "ms"), _get(predicted, "ci95_ms") if full else None, digits)
    forecast = with_reason(forecast, predicted, notes) if predicted else NONE
    rest = interval_of(_get(closure, "ms"), _get(closure, "ci95_ms") if full else None, digits)
    if _get(closure, "closed") is False:
        rest = f"* {rest}"
    cells = (measured, share, row["verdict"] or NONE)
    if not full:
        return Line(name.replace("_", " "), (*cells, forecast, rest))
    part = _get(predicted, "pct")
    of_measured = _get(closure, "pct_of_measured")
    more = (
        NONE if part is None else percent(part, _get(predicted, "ci95_pct")),
        rest,
        NONE if of_measured is None else f"{signed(of_measured, 1)}%",
    )
    return Line(name.replace("_", " "), (*cells, str(row["n"]), forecast, *more))


def _engine_line(account: Row) -> str:
    """The whole that the shares are of, and how fine a difference could be seen."""
    digits = decimals(account)
    if account["engine_ms"] is None:
        whole = "engine: not measured; shares are of paged in one run"
    else:
        figure = interval_of(account["engine_ms"], None, digits, sign=False, unit=" ms")
        bounds = account["engine_ci95_ms"]
        whole = "engine: " + figure + (f" [{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]" if bounds else "")
        whole += " a prefill"
    if runs := account["engine_spread_k"]:
        spread = f", {runs['min']:g} to {runs['max']:g}" if runs["min"] != runs["max"] else ""
        whole += f"; blocks as vLLM allocated them: median {counted(runs['median'], 'run')}{spread}"
    floor = account["noise_floor_pct"]
    if floor is None:
        most = max(row["n"] for row in account["measured"])
        few = 0 < most < stats.INTERVAL_SAMPLES
        return f"{whole}; noise floor not known: {'too few rounds' if few else 'no A/A series'}"
    return f"{whole}; noise floor (A/A) {floor:.2f}%"


def _shared_remark(account: Row) -> str | None:
    """What is said of every figure that was predicted, e.g. that few layers were replayed."""
    remarks = {row["reason"] for row in account["predicted"] if row["ms"] is not None}
    return remarks.pop() if len(remarks) == 1 else None


def _without(row: Row, remark: str) -> Row:
    return row | {"reason": None} if row["ms"] is not None and row["reason"] == remark else row


def _account_legend(account: Row, shared: str | None) -> list[str]:
    """What the rows and columns are."""
    k, names = account["spread_k"], {row["component"] for row in account["measured"]}
    rows = [f"fragmentation: {k if k > 1 else 'many'} runs against 1", "paging: one run against dense"]
    rows.append("cache write: dense against no write")
    if "allocation" in names:
        rows.append("allocation: vLLM's own blocks against one run")
    if "hooks" in names:
        rows.append("hooks: the harness's idle wrappers, which all but `engine` pass, against none")
    if "compact" in names:
        rows.append(f"compact: gathered first, against {counted(k, 'run')}")
    which = f" ({shared})" if shared else ""
    return [
        f"ms per prefill. {'; '.join(rows)}.",
        f"predicted: the same from replayed kernels, summed over the layers{which}; closure: measured "
        f"minus predicted, * if its interval excludes zero{_few_layers(account)}.",
    ]


def _costly_hooks(account: Row) -> list[str]:
    """That the harness itself cost more than the noise floor, if it did."""
    hooks = find(account["measured"], component="hooks")
    floor = account["noise_floor_pct"]
    if hooks is None or hooks["ci95_pct"] is None or floor is None or hooks["ci95_pct"][0] <= floor:
        return []
    cost = percent(hooks["pct"], hooks["ci95_pct"], sign=False)
    return [
        f"The harness's idle wrappers cost {cost} of the prefill here. The other rows have them on both "
        "sides; read those of a host-bound step with care."
    ]


def _few_layers(account: Row) -> str:
    """Why closures have no star where layers were left out; "" if none was."""
    replayed = {row["layers"] for row in account["predicted"] if row["layers"] is not None}
    if not (fewer := sorted(replayed - {account["layers"]})):
        return ""
    some = f"{' or '.join(map(str, fewer))} of {counted(account['layers'], 'layer')}"
    return f"; no * where predicted from {some}: their differences are not in its interval"


def _get(row: Row | None, key: str) -> Any:
    return row and row[key]
