"""A file of work, read as what its content says it is; what is doubtful is refused, never guessed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from harness import files
from harness.units import GIB, MIB, first_line, pluralise
from harness.workloads.records import RecordError, parse_record
from harness.workloads.tables import find_table
from harness.workloads.work import Skipped, Work, WorkError, WorkRequest

T = TypeVar("T")
TEXTS, PAIRS = "texts", "pairs"  # one a line; to score
FORMATS = (
    TEXTS, "prompts", "token ids", "ShareGPT", PAIRS, "Mooncake trace", "BurstGPT trace", "Azure trace",
)  # fmt: skip
TRACES = frozenset(name for name in FORMATS if name.endswith("trace"))  # lengths and no text
MOST_BYTES = GIB  # the largest in use, ShareGPT's 2023 file, has 0.63 GiB
MOST_SKIPPED = 0.01  # of a file's lines
HASH_TOKENS = (512, 16, 32, 64, 128, 256, 1024, 2048, 4096)  # Mooncake's own size first

Line = tuple[int, bytes]  # from 1, and without its end


def read_work(path: Path) -> Work:
    """The requests of a file: one text a line; JSON, a record a line or all in a list; or a trace's table.

    Raises:
        WorkError: it cannot be read, is of no kind that is known, holds no request, or more than 1% of its
            lines are wrong; the first is named by its number.
    """
    try:
        content = files.read_bytes(path, MOST_BYTES)
    except OSError as error:
        raise WorkError(f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise WorkError(f"cannot be read: {error}") from None
    return parse_work(content, path.suffix.lower())


def parse_work(content: bytes, suffix: str = "") -> Work:
    """As `read_work`, of a file's content; its suffix only refuses what the content contradicts."""
    split = _without_mark(content).split(b"\n")  # JSON may hold what Python also splits lines at
    lines = [(n, line.removesuffix(b"\r")) for n, line in enumerate(split, 1) if line.strip()]
    if not lines:
        raise WorkError("holds no text; write one a line")
    if _begins_json(lines[0][1]):
        return _read_json(content, lines)
    number = lines[0][0]
    if suffix in (".json", ".jsonl", ".ndjson"):
        raise WorkError(f"line {number}: not JSON, though the file is named {suffix}")
    if table := find_table(lines[0][1].decode(errors="replace")):
        return _collect(lines[1:], lambda n, row: (table.format, table.parse(_decode(row), n)))
    if suffix in (".csv", ".tsv"):
        raise WorkError(
            f"line {number}: neither the header of BurstGPT's traces (Timestamp, Request tokens) nor of "
            'Azure\'s (TIMESTAMP, ContextTokens); write texts as JSON, {"prompt": ...} a line'
        )
    for opening, closing, what in ((b"{", b"}", "JSON"), (b"[", b"]", "JSON"), (b'"', b'"', "quoted")):
        if 2 * sum(line.startswith(opening) and line.endswith(closing) for _, line in lines) > len(lines):
            raise WorkError(
                f"line {number}: a text, though most lines are {what}; write texts as they are, or JSON, "
                '{"prompt": ...} a line'
            )
    return _collect(lines, lambda n, line: (TEXTS, [WorkRequest(n, prompt=_decode(line))]))


def is_records(content: bytes) -> bool:
    """Whether a file's content begins as records do, JSON or a trace's table, and not as prose."""
    first = _without_mark(content[:MIB]).lstrip().partition(b"\n")[0]
    return _begins_json(first) or find_table(first.decode(errors="replace")) is not None


def _begins_json(first_line: bytes) -> bool:
    if re.match(rb'\s*(\{\s*("|$)|\[\s*(\{|$))', first_line):
        return True
    return first_line.lstrip().startswith((b"{", b"[")) and _is_json(first_line)


def _read_json(content: bytes, lines: Sequence[Line]) -> Work:
    """Records that are a line each or, where the first line is none by itself, all in one value."""
    if len(lines) == 1 or not _is_json(lines[0][1]):
        try:
            whole = files.parse_json(_without_mark(content))
        except ValueError:
            pass  # lines, of which the first is wrong
        else:
            if isinstance(whole, list) and not all(type(each) is int for each in whole):
                return _collect([*enumerate(whole, 1)], lambda n, record: parse_record(record, n), "record")
            return _collect([(lines[0][0], whole)], lambda n, record: parse_record(record, n))
    return _collect(lines, lambda n, line: parse_record(_parse(line), n))


def _collect(
    items: Sequence[tuple[int, T]],
    parse: Callable[[int, T], tuple[str, list[WorkRequest]]],
    unit: str = "line",
) -> Work:
    """The requests of all items with their numbers; raises WorkError if too many are wrong."""
    requests: list[WorkRequest] = []
    skipped: list[Skipped] = []
    form, empty, hash_tokens = None, 0, None
    for number, item in items:
        try:
            kind, found = parse(number, item)
            if kind != (form := form or kind):
                raise RecordError(f"{kind} in a file of {form}")
        except RecordError as error:
            skipped.append(Skipped(number, str(error)))
        else:
            requests += found
            empty += not found
    if form in TRACES:
        requests, hash_tokens = _make_consistent(requests, skipped)
    if len(skipped) > MOST_SKIPPED * len(items):
        raise WorkError(
            f"{unit} {skipped[0].line}: {skipped[0].reason} ({len(skipped)} of {pluralise(len(items), unit)} "
            "wrong; at most 1% may be)"
        )
    if form is None or not requests:
        raise WorkError("holds no request")
    return Work(form, tuple(requests), tuple(skipped), empty, hash_tokens)


def _make_consistent(
    requests: Sequence[WorkRequest], skipped: list[Skipped]
) -> tuple[list[WorkRequest], int | None]:
    """A trace's requests from time 0 on, and the tokens of a hash id; what does not fit joins `skipped`."""
    timed = any(request.arrival_s is not None for request in requests)
    hashed = [request for request in requests if request.hash_ids]
    fitting = {size: sum(_fits(request, size) for request in hashed) for size in HASH_TOKENS}
    hash_tokens = max(HASH_TOKENS, key=lambda size: fitting[size]) if hashed else None
    consistent = []
    for request in requests:
        if hash_tokens and not _fits(request, hash_tokens):
            reason = (
                f"{pluralise(len(request.hash_ids), 'hash id')} for {request.input_len} tokens; "
                f"must be one for every {hash_tokens}, as in most lines"
            )
        elif timed and request.arrival_s is None:
            reason = "has no timestamp, as other lines have"
        else:
            consistent.append(request)
            continue
        skipped.append(Skipped(request.line, reason))
    skipped.sort(key=lambda each: each.line)
    times_s = [request.arrival_s for request in consistent if request.arrival_s is not None]
    in_order = zip(consistent, times_s, strict=False)
    consistent = [
        replace(each, arrival_s=round(at_s - min(times_s), 6)) for each, at_s in in_order
    ] or consistent
    return consistent, hash_tokens


def _fits(request: WorkRequest, hash_tokens: int) -> bool:
    return not request.hash_ids or len(request.hash_ids) == -(-(request.input_len or 0) // hash_tokens)


def _without_mark(content: bytes) -> bytes:
    """Without a byte order mark, which some editors put first."""
    return content.removeprefix(b"\xef\xbb\xbf")


def _decode(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise RecordError("not UTF-8 text") from None


def _is_json(line: bytes) -> bool:
    try:
        files.parse_json(line)
    except ValueError:
        return False
    return True


def _parse(line: bytes) -> Any:
    try:
        return files.parse_json(line)
    except ValueError as error:
        raise RecordError(f"not JSON: {first_line(error)}") from None
