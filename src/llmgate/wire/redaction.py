"""Takes out of a text what looks like a secret, or is known to be one. It errs on the side of taking too much."""

from __future__ import annotations

import re
from collections.abc import Collection

# Each begins at the beginning of a word, or is bounded: a prompt may hold an image of many thousand letters, which must
# not be gone through again from each of them.
_WORDS = r"pass(?:word|wd|phrase)?|pwd|secret|token|api[_-]?key"
_KINDS = {
    "private_key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    "token": r"(?<![\w-])eyJ[\w-]{5,4096}+\.[\w-]{5,4096}+(?:\.[\w-]*+)?",  # a JWT
    "key": r"\b(?:sk|pk|rk|gh[opsu]|github_pat|glpat|xox[abeprs]|hf|AKIA|ASIA|AIza)[-_A-Za-z0-9]{10,}",
    "bearer": r"(?i:\bbearer)\s+[\w.~+/=-]{8,}",
    "password": rf"(?i:{_WORDS})\\?[\"']?\s*(?:[:=]|\bis\b)\s*\\?[\"']?[^\s\"'\\,;}}]{{4,}}",
    "login": r"(?<=://)[^\s/@:]{1,256}:[^\s/@]{1,256}(?=@)",
    "email": r"(?<![\w.+-])[\w.+-]{1,128}+@[\w-]{1,128}(?:\.[\w-]{1,128})+",
    "number": r"\b\d(?:[ -]?\d){12,18}\b",  # of a card or an account
}
_PATTERN = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _KINDS.items()), re.DOTALL)


class Leak(Exception):
    """Something secret is still there."""


def redact(text: str, known: Collection[str] = ()) -> str:
    """With `[redacted: KIND]` in place of each secret; `known` are some to look for as they are. Raises Leak if a
    second look finds any left."""
    done = _once(text, known)
    if any(secret in done for secret in known if secret) or _once(done, known) != done:
        raise Leak
    return done


def _once(text: str, known: Collection[str]) -> str:
    for secret in sorted(filter(None, known), key=len, reverse=True):
        text = text.replace(secret, "[redacted: known]")
    return _PATTERN.sub(lambda match: f"[redacted: {(match.lastgroup or '').replace('_', '-')}]", text)
