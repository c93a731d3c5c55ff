"""How an audit's page looks: colors for light and dark, for screens and for paper."""

from __future__ import annotations

#: Colors by role. Words need a contrast of 4.5 to the ground and the card, bars of 3.
LIGHT = {
    "ground": "#ffffff",
    "card": "#f3f5f8",
    "text": "#1c2430",
    "muted": "#525d6b",
    "link": "#0b57a4",
    "severe": "#a3161c",
    "warning": "#7a4b00",
    "note": "#35506e",
    "good": "#1d6b34",
    "bar": "#2f6fb0",
    "worst": "#b3261e",
    "track": "#d5dce5",
}
DARK = {
    "ground": "#12161c",
    "card": "#1c232c",
    "text": "#e8edf3",
    "muted": "#aab5c2",
    "link": "#8ab8ff",
    "severe": "#ff9d95",
    "warning": "#f3c06b",
    "note": "#a9c7ea",
    "good": "#86d99b",
    "bar": "#6ea8e6",
    "worst": "#ff8a80",
    "track": "#36414e",
}

RULES = """
* { box-sizing: border-box; }
html { color-scheme: light dark; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--text);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
  overflow-wrap: break-word; }
header, main, footer, nav { max-width: 60rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 1.5rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.25rem 0 .5rem; }
h3 { font-size: 1.05rem; margin: 0 0 .4rem; }
p, ul, ol, dl, pre { margin: .5rem 0; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.skip { position: absolute; left: -99rem; }
.skip:focus { left: 1rem; top: .5rem; background: var(--ground); padding: .5rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0;
  list-style: none; }
nav a { display: inline-block; padding: .25rem 0; }
.muted, caption, figcaption, footer { color: var(--muted); }
.verdict { font-size: 1.1rem; font-weight: 600; padding: .75rem 1rem;
  background: var(--card); border-left: .4rem solid var(--muted); }
.verdict.failed { border-color: var(--severe); color: var(--severe); }
.verdict.passed { border-color: var(--good); color: var(--good); }
.figures { display: grid; gap: .75rem; padding: 0; list-style: none;
  grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); }
.figures li, article { background: var(--card); padding: .75rem 1rem;
  border-radius: .4rem; }
.figures strong { display: block; font-size: 1.6rem; line-height: 1.3; }
article { margin: .75rem 0; border-left: .4rem solid var(--note); }
article.severe { border-color: var(--severe); }
article.warning { border-color: var(--warning); }
.severe .severity { color: var(--severe); }
.warning .severity { color: var(--warning); }
.note .severity { color: var(--note); }
article.row { border-left: 0; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr;
  gap: .3rem 1rem; }
dt { color: var(--muted); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
.bars { list-style: none; padding: 0; }
.bars li { display: grid; grid-template-columns: 1fr max-content; gap: 0 .75rem;
  margin: .6rem 0; break-inside: avoid; }
.bars svg { grid-column: 1 / -1; width: 100%; height: .9rem; display: block; }
.bars .share { font-variant-numeric: tabular-nums; font-weight: 600; }
.track { fill: var(--track); }
.bar { fill: var(--bar); }
.worst .bar { fill: var(--worst); }
.range { stroke: var(--text); stroke-width: 2; vector-effect: non-scaling-stroke; }
.scrolls { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .25rem 0; }
th, td { text-align: right; padding: .35rem .6rem; white-space: nowrap;
  border-bottom: 1px solid var(--track); }
th:first-child { white-space: normal; min-width: 7rem; }
th:first-child { text-align: left; }
thead th { color: var(--muted); font-weight: 600; }
.pictures { display: flex; flex-wrap: wrap; gap: .75rem; margin: .5rem 0; }
figure { margin: 0; }
.pictures figure { flex: 1 1 6rem; max-width: 11rem; }
.pictures img { width: 100%; height: auto; display: block; image-rendering: pixelated;
  border: 1px solid var(--muted); }
figcaption { font-size: .85rem; }
pre { background: var(--card); padding: .75rem 1rem; border-radius: .4rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", monospace;
  font-size: .88rem; }
summary { cursor: pointer; padding: .4rem 0; }
footer { padding-bottom: 2rem; font-size: .9rem; }
@media (max-width: 34rem) {
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .6rem; }
  th, td { padding: .35rem .4rem; }
}
@media print {
  nav, .skip { display: none; }
  body { font-size: 10pt; }
  header, main, footer { max-width: none; padding: 0; }
  h2, h3 { break-after: avoid; }
  article, .figures li, tr, pre { break-inside: avoid; }
  .scrolls { overflow: visible; }
  th, td { white-space: normal; padding: .2rem .35rem; }
  details::details-content { content-visibility: visible; }
  svg, .verdict, article, .figures li { print-color-adjust: exact; }
}
"""


def style() -> str:
    """Return the style sheet."""
    light, dark = (
        "".join(f"--{role}: {color}; " for role, color in colors.items())
        for colors in (LIGHT, DARK)
    )
    return (
        f":root {{ {light}}}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}\n"
        f"{RULES}"
    )
