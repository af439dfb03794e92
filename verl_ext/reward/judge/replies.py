"""Replies of a judge on disk, by what was asked: an evaluation that goes on asks nothing twice."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


class Replies:
    """A folder of replies, one file each, shared by any number of processes.

    Args:
        folder: made when the first reply is kept.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)

    def _file(self, asked: dict[str, Any], vote: int) -> Path:
        text = json.dumps([asked, vote], sort_keys=True, ensure_ascii=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return self._folder / digest[:2] / f"{digest}.json"

    def find(self, asked: dict[str, Any], vote: int) -> str | None:
        """The reply to a request, or None; `vote` tells equal requests of one answer apart."""
        try:
            reply = json.loads(self._file(asked, vote).read_text(encoding="utf-8"))["reply"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return reply if isinstance(reply, str) else None

    def keep(self, asked: dict[str, Any], vote: int, reply: str) -> None:
        """Keep a reply; whole or not at all, whoever is killed meanwhile.

        Raises:
            OSError: the folder cannot be written.
        """
        file = self._file(asked, vote)
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as target:
                json.dump({"model": asked.get("model"), "reply": reply}, target)
            os.replace(name, file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
