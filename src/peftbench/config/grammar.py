"""Plain values in the grammar of Hydra's overrides."""

from __future__ import annotations

import json
import re
from typing import Any

from peftbench.config.doors import literal

_PLAIN = re.compile(r"[\w./:+@%-]+")


def hydra_value(value: Any) -> str:
    """A plain value in the grammar of Hydra's overrides; a text is taken as it stands, `${` included."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{hydra_value(k)}:{hydra_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(hydra_value, value)) + "]"
    text = str(value)
    looks_like_another = isinstance(value, str) and (text.lower() in ("null", "true", "false") or _is_number(text))
    if _PLAIN.fullmatch(text) and not looks_like_another:
        return text
    # Hydra takes a backslash for one unless it stands before a quote
    return "'" + re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + m[2].replace("'", "\\'"), literal(text)) + "'"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
