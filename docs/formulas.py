"""TeX to MathML, which browsers draw themselves: no script and no network where a page is read."""

import re

from latex2mathml.converter import convert

_THIN = "0.1667em"
_NAMED = re.compile(r"<m[io][^>]*>(Pr|max|log|ln|exp|arg)</m[io]>(<(?:mi|mn|mfrac|msub><mi)>)?")


def draw(tex: str, *, is_display: bool) -> str:
    """The formula as MathML; raises ValueError where a command of TeX is left in it."""
    plain = tex.replace(r"\arg", r"\operatorname{arg}").replace(r"\_", "_")
    drawn = _NAMED.sub(_spaced, convert(plain, display="block" if is_display else "inline"))
    if "\\" in drawn:
        raise ValueError(f"a formula has a command that latex2mathml does not know: {tex}")
    if not is_display:
        return drawn
    drawn = re.sub(r"<msub>(<mo[^>]*>max</mo>.*?)</msub>", r"<munder>\1</munder>", drawn)
    return f'<div class="formula">{drawn}</div>'


def _spaced(named: re.Match[str]) -> str:
    """A function by its name, with the spaces that TeX puts around it: none before a bracket."""
    name, operand = named[1], named[2] or ""
    return f'<mo lspace="{_THIN}" rspace="{_THIN if operand else "0"}">{name}</mo>{operand}'
