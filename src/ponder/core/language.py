"""Which language a text is in, as far as can be told."""

from __future__ import annotations

import unicodedata
from collections import Counter

NAMES = {
    "en": "English", "zh": "Chinese", "de": "German", "fr": "French", "es": "Spanish", "it": "Italian",
    "pt": "Portuguese", "nl": "Dutch", "pl": "Polish", "ru": "Russian", "uk": "Ukrainian", "cs": "Czech",
    "ja": "Japanese", "ko": "Korean", "ar": "Arabic", "he": "Hebrew", "hi": "Hindi", "tr": "Turkish",
    "vi": "Vietnamese", "id": "Indonesian", "fa": "Persian", "el": "Greek", "ro": "Romanian", "th": "Thai",
    "sv": "Swedish", "da": "Danish", "no": "Norwegian", "fi": "Finnish", "hu": "Hungarian", "bn": "Bengali",
}  # fmt: skip
"""Codes that can be told and asked for, and how languages are called in an English instruction."""

_SCRIPTS = {
    "HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "CJK": "zh", "GREEK": "el", "THAI": "th", "HEBREW": "he",
    "DEVANAGARI": "hi", "BENGALI": "bn",
}  # fmt: skip
_FEW_LETTERS = 6


def language_of(text: str) -> str | None:
    """The code of a text's language; None if it has too few letters, or cannot be told.

    Scripts that one large language uses are told by their letters. For others the package py3langid is asked, if it is
    there (extra `languages`).

    >>> language_of("法国的首都是什么？"), language_of("3 + 4 =")
    ('zh', None)
    """
    letters = [c for c in text if c.isalpha()]
    scripts = Counter(unicodedata.name(c, "?").split()[0] for c in letters)
    for script, code in _SCRIPTS.items():
        kana = script in ("HIRAGANA", "KATAKANA")
        if scripts[script] and scripts[script] >= (0.1 if kana else 0.4) * len(letters):
            return code
    if len(letters) < _FEW_LETTERS:
        return None
    try:
        import py3langid
    except ImportError:
        return None
    code = str(py3langid.classify(text)[0])
    return code if code in NAMES else None
