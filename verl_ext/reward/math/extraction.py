"""Where in a response its final answer stands. Every scan is linear in the length of the response."""

from __future__ import annotations

import re

BOX_OPENERS = ("\\boxed", "\\fbox")
STRICT_BOX_TAIL = 100
"""DAPO's strict box mode looks at no more than this many last characters."""
MAX_BOX_CHARS = 20_000
"""A box that is not closed within so many characters counts as never closed."""
PHRASE_WINDOW = 2000
"""The phrase `final answer is` is looked for in no more than this many last characters."""

_BRACE_OR_ESCAPE = re.compile(r"\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"[^\s${}\\]{1,200}")
_BOX_BEFORE = re.compile(
    r"\\(?:boxed|fbox)\{([^{}]{1,80}|[^{}]{0,40}\{[^{}]{0,40}\}[^{}]{0,40})\}\$?[ ,;]{0,3}"
    r"(?:(?:and|or|\\text\{ ?(?:and|or) ?\})[ ]{0,2})?\$?$"
)
_PHRASE = re.compile(r"(?:final answer|answer|final result)(?: is|:| =)[ :]{0,3}(?:\*\*)?", re.IGNORECASE)
_ANSWER_LINE = re.compile(r"answer[ \t]{0,3}:[ \t]{0,5}([^\n]{1,2000})", re.IGNORECASE)
_HASHES = re.compile(r"####[ \t]{0,5}([^\n]{1,2000})")
_NUMBER = re.compile(r"-?(?<![\d.])(?:\d[\d,]{0,60}(?:\.\d{1,60})?|\.\d{1,60})")
_DELIMITED = re.compile(
    r"\$\$((?:[^$\\]|\\.){1,1000})\$\$|\$((?:[^$\\]|\\.){1,1000})\$|\\\(([^\n]{1,1000}?)\\\)|\\\[([^$]{1,1000}?)\\\]"
)
_SENTENCE_END = re.compile(r"\.(?=\s|$)|\n|\bI hope\b")
_ANSWER_TAG = re.compile(r"<answer>(.{0,4000}?)</answer>", re.DOTALL)


def after_think(response: str) -> str | None:
    """The text after the last `</think>`, or None where the response never closes its thinking."""
    _, mark, answer = response.rpartition("</think>")
    return answer if mark else None


def last_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{...}` or `\fbox{...}`.

    A last box that is never closed gives None, not the box before it: the response was cut off, and
    what it boxed earlier was something else. Boxes that follow each other with only a comma or `and`
    between them are one answer of several parts. An empty box is none.
    """
    start = max(text.rfind(opener) for opener in BOX_OPENERS)
    if start < 0:
        return None
    content = _box_at(text, start)
    if content is None:
        return None
    parts = [content]
    head = text[max(0, start - 400) : start]
    while len(parts) < 10 and (before := _BOX_BEFORE.search(head)):
        parts.insert(0, before.group(1))
        head = head[: before.start()]
    return ", ".join(part.strip() for part in parts) or None


def _box_at(text: str, start: int) -> str | None:
    opener = BOX_OPENERS[0] if text.startswith(BOX_OPENERS[0], start) else BOX_OPENERS[1]
    begin = start + len(opener)
    while begin < len(text) and text[begin] == " ":
        begin += 1
    if begin >= len(text):
        return None
    if text[begin] != "{":
        bare = _BARE_BOX.match(text, begin)
        return bare.group() if bare else None
    depth = 0
    for match in _BRACE_OR_ESCAPE.finditer(text, begin, begin + MAX_BOX_CHARS):
        token = match.group()
        if token == "{":
            depth += 1
        elif token == "}":
            depth -= 1
            if depth == 0:
                return text[begin + 1 : match.start()]
    return None


def has_closed_box(text: str) -> bool:
    """Whether the response ends with an answer in a box that is closed."""
    return last_boxed(text) is not None


def strict_boxed(text: str) -> str | None:
    """The last box, looked for only at the very end of the response (DAPO's strict box mode)."""
    return last_boxed(text[-STRICT_BOX_TAIL:])


def answer_phrase(text: str) -> str | None:
    """What follows the last `final answer is`, `the answer is` or `Answer:`."""
    tail = text[-PHRASE_WINDOW:]
    ends = [match.end() for match in _PHRASE.finditer(tail)]
    if not ends:
        return None
    rest = tail[ends[-1] :].lstrip()
    delimited = _DELIMITED.match(rest)
    if delimited:
        return next(group for group in delimited.groups() if group is not None).strip() or None
    end = _SENTENCE_END.search(rest)
    return _unmarked(rest[: end.start() if end else len(rest)])


def answer_line(text: str) -> str | None:
    """What follows the last `Answer:` on its line (DAPO's plain prompt)."""
    found = _ANSWER_LINE.findall(text[-PHRASE_WINDOW:])
    return _unmarked(found[-1]) if found else None


def after_hashes(text: str) -> str | None:
    """What follows the last `####` (GSM8K's own format)."""
    found = _HASHES.findall(text[-PHRASE_WINDOW:])
    return _unmarked(found[-1]) if found else None


def _unmarked(text: str) -> str | None:
    """Without blanks and bold marks around it; None if nothing is left."""
    return text.strip().strip("*").strip() or None


def answer_tag(text: str) -> str | None:
    """Content of the last `<answer>` element (reasoning-gym's prompts)."""
    start = text.rfind("<answer>")
    found = _ANSWER_TAG.match(text, start) if start >= 0 else None
    return found.group(1).strip() if found else None


def last_number(text: str) -> str | None:
    """The last number anywhere near the end; only the published harness's behaviour asks for it."""
    found = _NUMBER.findall(text[-PHRASE_WINDOW:])
    return found[-1].rstrip(",") if found else None
