"""An audit as one HTML page that needs nothing beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sk_advdef._validation import shortened
from sk_advdef.evaluation._audit import Audit, versions
from sk_advdef.evaluation._audit_style import style
from sk_advdef.evaluation._diagnosis import SEVERITIES
from sk_advdef.evaluation._html import Markup, joined, picture, table, tag
from sk_advdef.evaluation._report import AttackFigures

#: The browser itself refuses whatever is not in the file.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
#: Changed features shown of a row at most.
FEATURES = 8


def page(audit: Audit) -> str:
    """Return the page."""
    name = Path(next(iter(audit.files))).name
    sections = {
        "signs": ("Can the figures be trusted?", _signs(audit)),
        "attacks": ("Accuracy under each attack", _attacks(audit)),
        "rows": ("The most telling rows", _rows(audit)),
        "not-tried": ("What was not tried", _not_tried(audit)),
        "repeat": ("How to repeat it", _repeat(audit)),
    }
    body = tag(
        "body",
        tag("a", "Skip to the findings", href="#main", class_="skip"),
        tag("header", tag("h1", f"Audit of {name}"), _verdict(audit), _figures(audit)),
        tag(
            "nav",
            tag(
                "ul",
                *(
                    tag("li", tag("a", title, href=f"#{key}"))
                    for key, (title, _) in sections.items()
                ),
            ),
            aria_label="On this page",
        ),
        tag(
            "main",
            *(
                tag(
                    "section",
                    tag("h2", title, id=f"{key}-title"),
                    content,
                    id=key,
                    aria_labelledby=f"{key}-title",
                )
                for key, (title, content) in sections.items()
            ),
            id="main",
            tabindex="-1",
        ),
        tag("footer", tag("p", f"Made by sk_advdef {versions()['sk_advdef']}.")),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"Audit of {name}"),
        # without this a browser asks the server for one
        tag("link", rel="icon", href="data:,"),
        tag("style", Markup(style())),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}"


def _verdict(audit: Audit) -> Markup:
    passed = {True: " failed", False: " passed"}[bool(audit.failures)]
    state = "" if audit.fail_under is None else passed
    return tag("p", audit.verdict, class_=f"verdict{state}")


def _figures(audit: Audit) -> Markup:
    report, diagnosis = audit.report, audit.diagnosis
    low, high = report.worst_case_interval
    counts = [sum(f.severity == s for f in diagnosis.findings) for s in SEVERITIES]
    cards = [
        (
            "Accuracy under the strongest attack we ran (an upper bound)",
            f"{report.worst_case_accuracy:.1%}",
            f"95 % interval {low:.1%} to {high:.1%}, {report.evaluated.sum()} rows",
        ),
        (
            "Accuracy on the rows as they are",
            f"{report.clean_accuracy:.1%}",
            "nobody attacks",
        ),
        (
            "Signs that figures are not to be trusted",
            str(sum(counts)),
            ", ".join(f"{n} {s}" for n, s in zip(counts, SEVERITIES, strict=True)),
        ),
    ]
    if report.certified is not None:
        proved = f"proved by {report.certified_by}: a lower bound"
        cards.append(("Certified", f"{report.certified:.1%}", proved))
    items = (
        tag("li", title, tag("strong", figure), tag("span", words, class_="muted"))
        for title, figure, words in cards
    )
    threat = tag(
        "p",
        "The attacker may change each feature by at most ",
        tag("strong", _reach(audit.eps)),
        f" (norm linf), {_box(report.threat.get('bounds'))}.",
    )
    return joined(tag("ul", *items, class_="figures"), threat)


def _reach(eps: Any) -> str:
    values = np.asarray(eps, dtype=np.float64)
    if values.ndim == 0:
        return f"{values:.4g}"
    fixed = int((values == 0).sum())
    known = f" ({fixed} features cannot be changed)" if fixed else ""
    return f"{values.min():.3g} to {values.max():.3g}, feature by feature{known}"


def _box(bounds: Any) -> str:
    if bounds is None:
        return "without a box"
    low, high = (np.asarray(end, dtype=np.float64) for end in bounds)
    if low.ndim == 0 and high.ndim == 0:
        return f"within {low:.4g} to {high:.4g}"
    return "within the range that the feature has in the data"


def _signs(audit: Audit) -> Markup:
    found = [
        tag(
            "article",
            tag(
                "h3",
                tag("span", finding.severity, class_="severity"),
                f": {finding.name.replace('_', ' ')}",
            ),
            tag(
                "dl",
                tag("dt", "Evidence"),
                tag("dd", finding.evidence),
                tag("dt", "Meaning"),
                tag("dd", finding.meaning),
                tag("dt", "What to do"),
                tag("dd", finding.what_to_do),
            ),
            class_=finding.severity,
        )
        for finding in audit.diagnosis.findings
    ]
    if not found:
        none = "No sign was found. That is no proof: only these checks were made."
        return tag("p", none)
    return joined(*found)


def _attacks(audit: Audit) -> Markup:
    lines = audit.report._lines()
    bars = tag("ol", *(_bar(line, line is lines[-1]) for line in lines), class_="bars")
    head, *cells = audit.report._cells()
    words = [w for w in audit.report._words()[1:] if not w.startswith("Not tried:")]
    about = (
        "A bar is the share of rows that are right and stay so, the line its 95 % "
        "interval. The worst case counts a row as lost if any attack took it."
    )
    legend = (
        "Change is the median length of successful changes, queries are forward passes "
        "a row."
    )
    return joined(
        tag("p", about),
        bars,
        tag("p", legend, class_="muted"),
        table("Every attack that was run", head, cells),
        tag("ul", *(tag("li", word) for word in words)) if words else None,
    )


def _bar(line: AttackFigures, worst: bool) -> Markup:
    low, high, share = (f"{100 * v:.2f}" for v in (line.low, line.high, line.share))
    knows = f" (knows {line.knows})" if line.knows else ""
    drawn = tag(
        "svg",
        tag("rect", class_="track", width="100", height="10"),
        tag("rect", class_="bar", width=share, height="10"),
        tag("line", class_="range", x1=low, x2=high, y1="5", y2="5"),
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        aria_hidden="true",
        focusable="false",
    )
    return tag(
        "li",
        tag("span", f"{line.attack}{knows}"),
        tag("span", f"{line.share:.1%}", class_="share"),
        drawn,
        class_="worst" if worst else None,
    )


def _rows(audit: Audit) -> Markup:
    if not audit.telling:
        return tag("p", "No row that was right could be shown to be lost.")
    about = (
        "Rows that were right, and a change that makes the model wrong, taken back as "
        "far as it stays wrong. Each kind of mistake comes once before any comes again."
    )
    shown = _pictures if audit.layout is not None else _features
    return joined(
        tag("p", about),
        *(
            tag(
                "article",
                tag(
                    "h3",
                    f"Row {audit.positions[row.at]}: {_label(row.label)}, taken for "
                    f"{_label(row.answer)}",
                ),
                tag(
                    "p",
                    f"Found by {row.attack}; the largest change is {row.size:.0%} of "
                    "what was allowed.",
                    class_="muted",
                ),
                shown(audit, row),
                class_="row",
            )
            for row in audit.telling
        ),
    )


def _label(label: Any) -> str:
    return shortened(str(label))


def _pictures(audit: Audit, row: Any) -> Markup:
    before, after = (
        audit.layout.unfold(part[None].astype(np.float64))[0]
        for part in (row.before, row.after)
    )
    low, high = min(before.min(), after.min()), max(before.max(), after.max())
    span = max(high - low, np.finfo(np.float64).tiny)
    change = after - before
    reach = max(float(np.abs(change).max()), np.finfo(np.float64).tiny)
    shown = [
        ((before - low) / span, f"as it was: {_label(row.label)}"),
        ((after - low) / span, f"changed: taken for {_label(row.answer)}"),
        (
            _signed(change.mean(axis=-1) / reach),
            f"the change, up to {reach:.3g}: red raised, blue lowered",
        ),
    ]
    return tag(
        "div",
        *(
            tag("figure", picture(_drawable(image), words), tag("figcaption", words))
            for image, words in shown
        ),
        class_="pictures",
    )


def _drawable(image: np.ndarray) -> np.ndarray:
    return image if image.shape[-1] in (1, 3) else image.mean(axis=-1, keepdims=True)


def _signed(change: np.ndarray) -> np.ndarray:
    """Color what is raised red and what is lowered blue, on white."""
    up, down = np.maximum(change, 0), np.maximum(-change, 0)
    return np.stack([1 - down, 1 - up - down, 1 - up], axis=-1)


def _features(audit: Audit, row: Any) -> Markup:
    before, after = (
        part.ravel().astype(np.float64) for part in (row.before, row.after)
    )
    change = after - before
    eps = np.broadcast_to(np.asarray(audit.eps, np.float64), row.before.shape).ravel()
    part = np.divide(np.abs(change), eps, out=np.zeros(len(eps)), where=eps > 0)
    order = np.argsort(-part, kind="stable")
    changed = [i for i in order if change[i]]
    names = audit.names
    cells = [
        [
            f"feature {i}" if names is None else shortened(names[i]),
            f"{before[i]:.4g}",
            f"{after[i]:.4g}",
            f"{part[i]:.0%}",
        ]
        for i in changed[:FEATURES]
    ]
    more = len(changed) - len(cells)
    rest = f"; the {FEATURES} most changed" if more else ""
    caption = f"{len(changed)} of {len(change)} features changed{rest}"
    head = ["feature", "before", "after", "of eps"]
    label = f"Changed features of row {audit.positions[row.at]}"
    return table(caption, head, cells, label)


def _not_tried(audit: Audit) -> Markup:
    words = [*audit.report.not_tried, *audit.diagnosis.not_checked]
    notes = (
        tag("h3", "Notes and warnings"),
        tag("ul", *(tag("li", note) for note in audit.notes)),
    )
    return joined(
        tag("p", "An attack that was not run may do better than those that were."),
        tag("ul", *(tag("li", word) for word in words)),
        *(notes if audit.notes else ()),
    )


def _repeat(audit: Audit) -> Markup:
    files = [[path, digest] for path, digest in audit.files.items()]
    made = [[name, version] for name, version in versions().items()]
    settings = (
        item
        for line in audit.report.attacks[1:]
        for item in (tag("dt", line.attack), tag("dd", tag("code", line.settings)))
    )
    return joined(
        tag("pre", tag("code", audit.command)),
        table("Files", ["file", "SHA-256"], files),
        table("Versions", ["package", "version"], made),
        tag(
            "details",
            tag("summary", "The model and the settings of the attacks"),
            tag("pre", tag("code", audit.model)),
            tag("dl", *settings),
        ),
    )
