"""No word that comes from a model, its data or its files becomes HTML, or acts."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from sk_advdef import Diagnosis, GuardedClassifier, RejectingClassifier
from sk_advdef._images import resolve_layout
from sk_advdef.evaluation import _audit, _audit_command, _audit_page
from sk_advdef.evaluation._audit_page import page
from sk_advdef.evaluation._diagnosis import Finding
from sk_advdef.evaluation._html import UNSEEN, visible
from sk_advdef.evaluation._telling import TellingRow
from tests.evaluation.test_audit_page import Reader

HOSTILE = {
    "element": "<script>alert(1)</script>",
    "attributes": "\" onload=alert(1) x='y' `z",
    "ends": "</style></title></code></pre></table></script><img src=x>",
    "comment": "<!-- --> --!> <!",
    "section": "]]> <![CDATA[ <?php ?>",
    "address": "javascript:alert(1) data:text/html,<b> https://a.example/",
    "entities": "&lt;b&gt; &#60;b&#62; &amp;lt; &notit; &",
    "null": "\0<\0b>\0\x08\x1b[2J\x7f\x85\r",
    "direction": "model\u202egpj\u2066.\u2069\u200f\u061c\u200b\u2028\ufeff",
    "surrogate": os.fsdecode(b"\xff\xfe<b>") + "\ud800",
    "no character": "\uffff\ufffe\ufdd0\U000e0041",
    "other encodings": "+ADw-b+AD4- \uff1cb\uff1e \u00bcb\u00be",
    "templates": "{{7*7}} ${7*7} %s {0} {tag}",
}


class Loose(Reader):
    """A reader for HTML of others, whose ends need not match."""

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        pass


def audit_of(word, made_by_hand, shape=(4,)):
    """Return an audit in which everything that can be a word is this one."""
    audit = made_by_hand(
        diagnosis=Diagnosis(
            [Finding(word, "severe", *[word] * 3)],
            threat={word: word},
            not_checked=[word],
        ),
        fail_under=0.9,
        telling=[
            TellingRow(3, word, word, word, np.zeros(shape), np.full(shape, 0.1), 1.0)
        ],
        names=[word] * 4,
        model=word,
        files={f"model {word}": word, f"rows {word}": word},
        command=word,
        notes=[word],
        layout=resolve_layout("test", (1, *shape), None, -1)
        if len(shape) > 1
        else None,
    )
    report = replace(
        audit.report,
        attacks=[
            audit.report.attacks[0],
            replace(audit.report.attacks[1], attack=word, knows=word, settings=word),
        ],
        threat=audit.report.threat | {word: word},
        not_tried=[word],
        rejection={word: {word: 0.5}},
        detection={word: {word: 0.5}},
        certified=0.5,
        certified_by=word,
    )
    return replace(audit, report=report)


def skeleton(text):
    """Return elements and attributes in order, and values of what may act."""
    read = Reader(text)
    acts = {"href", "src", "style", "class", "id", "http-equiv", "content", "rel"}
    return [
        (name, [(key, value if key in acts else None) for key, value in given.items()])
        for name, given in read.elements
    ]


@pytest.fixture
def any_version(monkeypatch):
    """Let versions be words too."""

    def set_to(word):
        found = {"sk_advdef": word, word: word}
        monkeypatch.setattr(_audit_page, "versions", lambda: found)
        monkeypatch.setattr(_audit, "versions", lambda: found)

    return set_to


@pytest.mark.parametrize("shape", [(4,), (2, 2)])
@pytest.mark.parametrize("kind", HOSTILE)
def test_words_stay_words(made_by_hand, any_version, kind, shape):
    plain, hostile = "word", HOSTILE[kind]
    pages = []
    for word in (plain, hostile):
        any_version(word)
        audit = audit_of(word, made_by_hand, shape)
        pages.append([page(audit), audit.report._repr_html_()])
        pages[-1].append(audit.diagnosis._repr_html_())
    for of_plain, of_hostile in zip(*pages, strict=True):
        # a picture is as long as its bytes
        assert skeleton(of_hostile) == skeleton(of_plain)
        assert not UNSEEN.search(of_hostile)
        of_hostile.encode("utf-8")
        words = "".join(Reader(of_hostile).words)
        # words of the page may be shortened, and names of checks lose their _
        assert words.count(visible(hostile)) >= 2
    whole = Reader(pages[1][0])
    labels = [given.get("aria-label", "") for _, given in whole.elements]
    alts = [given.get("alt", "") for given in whole.all("img")]
    assert bool(alts) == (len(shape) > 1) and all(labels) is False
    assert all(visible(hostile) in alt for alt in alts[:2])


def strictly(text):
    """Read JSON as a strict reader would."""

    def refuse(word):
        raise AssertionError(word)

    def once(pairs):
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    return json.loads(text, parse_constant=refuse, object_pairs_hook=once)


@pytest.mark.parametrize("kind", HOSTILE)
def test_json_stays_json(made_by_hand, any_version, kind):
    hostile = HOSTILE[kind]
    any_version(hostile)
    audit = audit_of(hostile, made_by_hand)
    written = json.dumps(audit.to_dict(), indent=2, allow_nan=False)
    assert written.isascii() and not UNSEEN.search(written)
    read = strictly(written)
    assert read["command"] == hostile and read["notes"] == [hostile]
    assert read["telling_rows"][0]["label"] == hostile
    assert read["files"][f"model {hostile}"] == hostile
    assert strictly(audit.report.to_json())["not_tried"] == [hostile]


def test_visible():
    assert visible("a\tb\nc é ß 漢 👍🏽 «»") == "a\tb\nc é ß 漢 👍🏽 «»"
    assert visible("\0\x1b\x9b\u202e\ud800\U000e0041") == (
        r"\x00\x1b\x9b\u202e\ud800\U000e0041"
    )


@pytest.mark.parametrize("kind", ["element", "attributes", "ends", "null"])
def test_diagrams_of_estimators(kind):
    def diagram(word):
        named = type(word.replace("\0", ""), (LogisticRegression,), {})
        inner = named(solver=word, class_weight={word: 1})
        guard = GuardedClassifier(
            RejectingClassifier(inner, None, reject_label=word),
            limit=word,
            store=f"sqlite:///{word}",
            allow=[word],
        )
        return guard._repr_html_()

    found, plain = Loose(diagram(HOSTILE[kind])), Loose(diagram("word"))
    assert [name for name, _ in found.elements] == [name for name, _ in plain.elements]
    assert [list(given) for _, given in found.elements] == [
        list(given) for _, given in plain.elements
    ]


def test_a_terminal_is_told_nothing_either(made_by_hand, monkeypatch, capsys, tmp_path):
    word = "".join(HOSTILE.values())
    audit = audit_of(word, made_by_hand)
    monkeypatch.setattr(_audit_command, "audit", lambda args, command: audit)
    out = tmp_path / "out\x1b[2J\u202e"

    class Args:
        pass

    Args.out = out
    assert _audit_command.run(Args, ["audit", word]) == _audit_command.FAILED
    said = capsys.readouterr()
    assert not UNSEEN.search(said.out) and not UNSEEN.search(said.err)
    assert visible(HOSTILE["direction"]) in said.out
    assert visible(HOSTILE["null"]) in said.err
    Reader((out / "report.html").read_text(encoding="utf-8"))
    strictly((out / "report.json").read_text(encoding="utf-8"))

    def refuse(args, command):
        raise _audit_command.AuditError(f"There is no file {word}.")

    monkeypatch.setattr(_audit_command, "audit", refuse)
    assert _audit_command.run(Args, []) == _audit_command.NO_AUDIT
    assert not UNSEEN.search(capsys.readouterr().err)
