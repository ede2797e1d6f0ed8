"""Texts on which two ways to the same ids are compared before one is trusted."""

from __future__ import annotations

SCRIPTS = (
    "The quick brown fox can't jump; it's 3.14159 metres, isn't it? ÀÉÎõü ﬁne — “quoted”…",
    "Быстрая лиса прыгает через собаку. Η γρήγορη αλεπού. Բարեւ աշխարհ. გამარჯობა",  # noqa: RUF001
    "敏捷的棕色狐狸跳过了懒狗。素早い茶色の狐はカタカナとひらがな。빠른 갈색 여우가 뛰어넘는다.",
    "الثعلب البني السريع ١٢٣ · השועל החום המהיר · तेज़ भूरी लोमड़ी कूदती है · สุนัขจิ้งจอก · ந௹ன்றி",
    "👩‍👩‍👧‍👦🇩🇪🏳️‍🌈 👍🏽 ☃️ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 e\u0301 \u00e9 \u200b\u200d\ufeff\u00a0\u2028 ½ ² Ⅷ ﷺ",  # noqa: RUF001
)

CODE = (
    "def f(x: int=0) -> dict[str, list[int]]:\n\treturn {'a':[x**2 for _ in range(10_000)]}  # no\n        \n\n\n",
    'if (a[i++]!=b->c && !d) { printf("%08x\\n", 0xDEADbeef); }\r\n\r\n// 2024-01-31T23:59:59Z\r\n',
    '{"id":"call_9f2","arguments":"{\\"path\\": \\"/usr/lib/x86_64\\"}","n":-1.5e-07,"ok":true}',
    "diff --git a/x b/x\n@@ -1,7 +1,7 @@\n-old_lineHERE\n+newLine42\n ========------____****\n",
)

BLANKS = (
    " ",
    "  leading",
    "trailing   ",
    "a\n\n\n b \t\t c\r\n\r\n   \n",
    "\n",
    "     \t x",
    "word" * 40,
    "1234567890" * 5,
)

PROBES = (*SCRIPTS, *CODE, *BLANKS, "", "\n\n".join((*SCRIPTS, *CODE)))


def between(specials: list[str]) -> list[str]:
    """The probes around special tokens: beside words, blanks and one another, whole and broken."""
    texts = []
    for number, special in enumerate(specials):
        before, after = PROBES[number % len(PROBES)], PROBES[(number + 5) % len(PROBES)]
        other = specials[(number + 1) % len(specials)]
        texts += [
            f"{before}{special}{after}",
            f"{before} {special} {after}\n{special}\n",
            f"{special}{other}{special}{after}{other[1:]}{before}{special[:-1]}",
        ]
    return texts
