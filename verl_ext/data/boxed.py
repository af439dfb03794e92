"""Finding the boxed answer of a worked solution."""

from __future__ import annotations


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` of `text`, or of `\boxed 7$`, as some MATH solutions write it.

    Only the last box counts: when it is cut off, an earlier one is more likely a step than the answer.
    A brace behind a backslash is a printed brace, as in `\boxed{\{1, 2\}}`, and is not counted.

    Returns:
        The content without surrounding blanks; None where there is no box, an open one or an empty one.
    """
    _, box, rest = text.rpartition("\\boxed")
    if not box:
        return None
    if rest.lstrip().startswith("{"):
        content = _until_closing_brace(rest, rest.index("{") + 1)
    else:
        content, end, _ = rest.partition("$")
        content = content if end and content[:1].isspace() else None
    return content.strip() or None if content is not None else None


def _until_closing_brace(text: str, start: int) -> str | None:
    depth = 1
    position = start
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1  # skips what it escapes
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return text[start:position]
        position += 1
    return None
