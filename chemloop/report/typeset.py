"""Chemical names with their subscripts and superscripts, as plain text that needs no mark-up."""

from __future__ import annotations

import re

SUBSCRIPTS = str.maketrans("0123456789n", "₀₁₂₃₄₅₆₇₈₉ₙ")
SUPERSCRIPTS = str.maketrans("0123456789n+-", "⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ⁺⁻")


def typeset(name: str) -> str:
    """A formula or a motif: `P2S7^4-` as P₂S₇⁴⁻, `(PS3)_n^n- chain` as (PS₃)ₙⁿ⁻ chain."""
    name = re.sub(r"\^([\dn]*[+-])", lambda charge: charge.group(1).translate(SUPERSCRIPTS), name)
    name = re.sub(r"_([\dn])", lambda index: index.group(1).translate(SUBSCRIPTS), name)
    return re.sub(r"(?<=[A-Za-z)])\d+", lambda count: count.group().translate(SUBSCRIPTS), name)


def typeset_group(name: str) -> str:
    """A space group: `P2_1/c` as P2₁/c."""
    return re.sub(r"_(\d)", lambda screw: screw.group(1).translate(SUBSCRIPTS), name)


def signed(number: float) -> str:
    """A whole number with a sign where it has one, the minus as long as the plus; 0 has none."""
    return f"{round(number):+d}".replace("-", "−") if round(number) else "0"
