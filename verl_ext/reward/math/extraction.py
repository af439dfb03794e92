"""Where in a response its final answer stands. Every scan is linear in the length of the response."""

from __future__ import annotations

import re

from verl_ext.reward.math.normalise import key, normalise

BOX_OPENERS = ("\\boxed", "\\fbox")
STRICT_BOX_TAIL = 100
"""DAPO's strict box mode looks at no more than this many last characters."""
MAX_BOX_CHARS = 20_000
"""A box that is not closed within so many characters counts as never closed."""
PHRASE_WINDOW = 2000
"""The phrase `final answer is` is looked for in no more than this many last characters."""

_BRACE_OR_ESCAPE = re.compile(r"\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"[^\s${}\\]{1,200}")
_JOIN_WINDOW = 400
"""Two boxes that are further apart are two answers."""
_MAX_BOXES = 10
_NO_MEANING = re.compile(r"\$|\\[()\[\],;:! ]|\\q?quad(?![a-z])|\*\*|~")
_JOINS = re.compile(r"(?:[,;&]|,? ?and|\\text ?\{,? ?and ?\},?|\\qquad|\\quad|\\quad and)?,?")
_ALTERNATIVE = re.compile(
    r",? ?\(? ?(?:and ?/ ?)?(?:or,?(?: (?:perhaps|maybe|possibly|even|else|it (?:could|might|may) be))?|\\text ?\{,? ?or ?\}|\\lor|\\vee)(?: ?[a-zA-Z] ?=)?"
)
_PHRASE = re.compile(r"(?:final answer|answer|final result)(?: is|:| =)[ :]{0,3}(?:\*\*)?", re.IGNORECASE)
_ANSWER_LINE = re.compile(r"answer[ \t]{0,3}:[ \t]{0,5}([^\n]{1,2000})", re.IGNORECASE)
_HASHES = re.compile(r"####[ \t]{0,5}([^\n]{1,2000})")
_NUMBER = re.compile(r"-?(?<![\d.])(?:\d[\d,]{0,60}(?:\.\d{1,60})?|\.\d{1,60})")
_DELIMITED = re.compile(
    r"\$\$((?:[^$\\]|\\.){1,1000})\$\$|\$((?:[^$\\]|\\.){1,1000})\$|\\\(([^\n]{1,1000}?)\\\)|\\\[([^$]{1,1000}?)\\\]"
)
_LED_UP_TO = re.compile(
    r"(?:(?:thus|therefore|hence|so|then|indeed|simply|just|exactly|approximately|about|roughly|equal to|equals|also|=),? )+(?=[-$\d\\])",
    re.IGNORECASE,
)
_AMOUNT = r"[-+]?[$€£]?\d[\d,]*(?:\.\d+|/\d+)?%?"
_AMOUNT_IN_A_PHRASE = re.compile(
    rf"({_AMOUNT}(?: (?!or\b|to\b|of\b|out\b|and\b|more\b|less\b|fewer\b|times\b|plus\b|minus\b|over\b|by\b)[a-z]{{2,15}}){{1,3}}?|{_AMOUNT}) "
    r"(?:(?:in|at|on|for|from|of|with|during|after|before|by)(?: (?!\d)|(?<=[a-z] for )(?=\d))|(?:every|each|when|while|sold|left|total|who|that)\b|(?<=[a-z] )(?:were|was|are|is|will|would)\b)"
)
"""`72 clips in April and May`, `18 dollars every day`: the amount that a phrase without further mathematics is about."""
_PLAIN_PHRASE = re.compile(r"[-$\w ,.'’%/€£]+")
_GLOSS = re.compile(r"\s\([a-z]{2,}(?: [a-z]+){0,4}\)$", re.IGNORECASE)
_HEDGE = re.compile(
    r"[\s,;(–—-]*(?:or|(?:and|but) (?:it|possibly|maybe|perhaps|could|might)|possibly|perhaps|maybe)\b(?! (?:about|so)\b)(?: [a-z]+){0,4} \$?(-?[\d\\][^.\n]{0,60})"
)
_SENTENCE_END = re.compile(r"\.(?=\s|$)|\n|\bI hope\b|!(?=\s*$|\s+[A-Z]|\*\*)")
_REASON = re.compile(
    r"[,;]?\s+(?:because|since|as|so|which|where|whereas|but|therefore|thus|hence|while|instead|rather|given|in total|in all|"
    r"altogether|respectively)\b|(?:[,;]|\s[-–—]{1,2})?\s\(?(?:and )?(?:see|not|i\.e\.|e\.g\.)\s|;\s"
)
_ASIDE = re.compile(
    r",\s+(?!(?:and|or|sin|cos|tan|cot|sec|csc|ln|log|exp|sqrt|pi|theta|alpha|beta|infinity|inf)\b)[a-z]{2,}|\s[-–—]{1,2}\s+(?=[a-z]{2,})"
    r"|\s\((?=[a-z]{2,}[ ,])"
)
_PRICE = re.compile(r"\d[\d,.]*(?:\s|$)")
_BETWEEN_MATHS = re.compile(r"(?:,|,? ?and|,? ?or) ?(?=\$|\\\()")
_CHOICE_ANSWER = re.compile(
    r"(?:[Aa](?:nswer|NSWER)|(?:correct|right|best) (?:option|choice))(?: is| would be| must be|:| =)?[\s:]{0,3}(?:option|choice)?[\s:]{0,2}"
    r"(?:\*\*|\$|\(|\\\(|\[|\\text(?:bf)? ?\{|\{|`){0,5}"
    r"(?:([AI])(?![a-zA-Z']|\s+(?!is\b|because\b|since\b|as\b|so\b|with\b|for\b|which\b|by\b|or\b|and\b|but\b|not\b)[a-z]+)"
    r"|([B-HJ])(?![a-zA-Z])|([a-j])(?=[.,;:)*}]|\s*$|\n))(?!\S{0,4} is (?:wrong|incorrect|false|not)\b)",
)
_CHOSEN = re.compile(r"\(([A-J])\)(?: is|,) (?:the |therefore |thus )*(?:correct|right)\b")
_ANOTHER_CHOICE = re.compile(
    r"[\s)*$}\]`.]{0,4}(?:(?:,|/|&|,? ?\b(?:or|and)\b)\s?|(?<=\))\s?(?=\())\(?([A-HJ])(?![a-zA-Z'])"
)
"""`B or C`, `B, C`, `(B)(C)`: no answer to a question with one right choice."""
_OPTION = re.compile(
    r"\b(?:[Oo]ption|[Cc]hoice)[\s:]{0,3}(?:\*\*|\$|\(){0,3}(?:([A-J])(?![a-zA-Z])|([a-j])(?=[.,;:)*]|\s*$|\n))"
)
_LETTER = re.compile(r"[\s(*$]{0,4}(?:\\text(?:bf)? ?\{)?\(?([A-Ja-j])(?:[\s).*$}]{0,4}$|[).:]\s|\s?[-–—]\s)")
_ANSWER_TAG = re.compile(r"<answer>(.{0,4000}?)</answer>", re.DOTALL)


def after_think(response: str) -> str | None:
    """The text after the last `</think>`, or None where the response never closes its thinking."""
    _, mark, answer = response.rpartition("</think>")
    return answer if mark else None


def last_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{...}` or `\fbox{...}`.

    A last box that is never closed gives None, not the box before it: the response was cut off, and
    what it boxed earlier was something else. Boxes that follow each other in one sentence with only a comma or `and`
    between them are one answer of several parts; the same part twice is one. Alternatives (`or`) stay alternatives.
    An empty box is none.
    """
    start = max(text.rfind(opener) for opener in BOX_OPENERS)
    found = _box_at(text, start) if start >= 0 else None
    if found is None:
        return None
    parts, connector = [found[0].strip()], ", "
    while len(parts) < _MAX_BOXES:
        before = max(text.rfind(opener, max(0, start - _JOIN_WINDOW), start) for opener in BOX_OPENERS)
        found = _box_at(text, before) if before >= 0 else None
        if found is None or found[1] > start:
            break
        joined = _joined(text[found[1] : start])
        if joined is None and found[0].strip() != parts[0]:
            break
        connector = joined if joined == _OR else connector
        parts.insert(0, found[0].strip())
        start = before
    different = list({key(normalise(part)) or part: part for part in reversed(parts)}.values())
    return connector.join(reversed(different)) or None


_OR = r" \text{ or } "


def _joined(between: str) -> str | None:
    """What the text between two boxes makes of them: parts of one answer, alternatives, or None: two answers."""
    if "\n\n" in between:
        return None
    words = " ".join(_NO_MEANING.sub(" ", between).split())
    if _ALTERNATIVE.fullmatch(words):
        return _OR
    is_joined = _JOINS.fullmatch(words) and (words or "quad" in between)
    return ", " if is_joined else None


def _box_at(text: str, start: int) -> tuple[str, int] | None:
    """The content of the box that opens at `start`, and where it ends."""
    opener = BOX_OPENERS[0] if text.startswith(BOX_OPENERS[0], start) else BOX_OPENERS[1]
    begin = start + len(opener)
    while begin < len(text) and text[begin] == " ":
        begin += 1
    if begin >= len(text):
        return None
    if text[begin] != "{":
        bare = _BARE_BOX.match(text, begin)
        return (bare.group(), bare.end()) if bare else None
    depth = 0
    for match in _BRACE_OR_ESCAPE.finditer(text, begin, begin + MAX_BOX_CHARS):
        token = match.group()
        if token == "{":
            depth += 1
        elif token == "}":
            depth -= 1
            if depth == 0:
                return text[begin + 1 : match.start()], match.end()
    return None


def has_closed_box(text: str) -> bool:
    """Whether the response ends with an answer in a box that is closed."""
    return last_boxed(text) is not None


def strict_boxed(text: str) -> str | None:
    """The last box, looked for only at the very end of the response (DAPO's strict box mode)."""
    return last_boxed(text[-STRICT_BOX_TAIL:])


def answer_phrase(text: str) -> str | None:
    """What follows the last `final answer is`, `the answer is` or `Answer:`, without the rest of the sentence."""
    tail = text[-PHRASE_WINDOW:]
    ends = [match.end() for match in _PHRASE.finditer(tail)]
    if not ends:
        return None
    rest = tail[ends[-1] :].lstrip()
    return _delimited(rest) or _clipped(rest)


def _delimited(rest: str) -> str | None:
    """The mathematics that a text starts with, `$3$`, or `$3$ and $4$`; two prices in one sentence are none."""
    parts, connector, position = [], ", ", 0
    while len(parts) < _MAX_BOXES and (found := _DELIMITED.match(rest, position)):
        inner = next(group for group in found.groups() if group is not None)
        if _PRICE.match(inner) and (inner != inner.rstrip() or _is_prose(inner)):
            break
        parts.append(inner.strip())
        between = _BETWEEN_MATHS.match(rest, found.end()) or _BETWEEN_MATHS.match(rest, found.end() + 1)
        if between is None:
            break
        connector = _OR if "or" in between.group() else connector
        position = between.end()
    return connector.join(dict.fromkeys(parts)) or None


def _is_prose(inner: str) -> bool:
    return "\\text" not in inner and re.search(r"[.,] [A-Z]?[a-z]+ |[a-z]{2,} [a-z]{2,}", inner) is not None


def _clipped(rest: str) -> str | None:
    """The answer that a sentence starts with, without its end, its reason (`because ...`) and asides (`, in total`)."""
    if led := _LED_UP_TO.match(rest):
        rest = rest[led.end() :]
    end = _SENTENCE_END.search(rest)
    sentence = answer = rest[: end.start() if end else len(rest)]
    reason = _REASON.search(answer, 1)
    if reason is not None:
        answer = answer[: reason.start()]
    aside = _ASIDE.search(answer, 1)
    if aside is not None and re.search(r"[\d\\]", answer[: aside.start()]):
        answer = answer[: aside.start()]
    if hedge := _HEDGE.match(sentence, len(answer)):
        return _unmarked(answer.rstrip(" (;,-–—")) + _OR + hedge.group(1).rstrip(") ")
    answer = _GLOSS.sub("", answer.rstrip())
    if (amount := _AMOUNT_IN_A_PHRASE.match(answer)) and _PLAIN_PHRASE.fullmatch(answer):
        answer = amount.group(1)
    return _unmarked(answer)


def choice(text: str) -> str | None:
    """The letter of a multiple choice: where an answer is named or boxed last; a formula in a box is none."""
    tail = text[-PHRASE_WINDOW:]
    named = [(match.start(), _first(match), match.end()) for match in _CHOICE_ANSWER.finditer(tail)]
    boxed = last_boxed(tail)
    letter = _LETTER.match(boxed) if boxed else None
    if letter is not None:
        named.append((max(tail.rfind(opener) for opener in BOX_OPENERS), letter.group(1), len(tail)))
    for weaker in (_CHOSEN, _OPTION):
        named = named or [(match.start(), _first(match), match.end()) for match in weaker.finditer(tail)]
    if named:
        _, last, end = max(named)
        another = _ANOTHER_CHOICE.match(tail, end)
        return None if another and another.group(1) != last.upper() else last.upper()
    if (tagged := answer_tag(tail)) and "<answer>" not in tagged:
        text = tagged
    alone = _LETTER.match(text) if len(text) < PHRASE_WINDOW else None
    return alone.group(1).upper() if alone else None


def _first(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group)


def answer_line(text: str) -> str | None:
    """What follows the last `Answer:` on its line (DAPO's plain prompt)."""
    found = _ANSWER_LINE.findall(text[-PHRASE_WINDOW:])
    return _unmarked(found[-1]) if found else None


def after_hashes(text: str) -> str | None:
    """What follows the last `####` (GSM8K's own format)."""
    found = _HASHES.findall(text[-PHRASE_WINDOW:])
    return _clipped(found[-1].strip()) if found else None


def _unmarked(text: str) -> str | None:
    """Without blanks and bold marks around it; None if nothing is left."""
    return text.strip().strip("*`").strip() or None


def answer_tag(text: str) -> str | None:
    """Content of the last `<answer>` element (reasoning-gym's prompts)."""
    start = text.rfind("<answer>")
    found = _ANSWER_TAG.match(text, start) if start >= 0 else None
    return found.group(1).strip() if found else None


def last_number(text: str) -> str | None:
    """The last number anywhere near the end; only the published harness's behaviour asks for it."""
    found = _NUMBER.findall(text[-PHRASE_WINDOW:])
    return found[-1].rstrip(",") if found else None
