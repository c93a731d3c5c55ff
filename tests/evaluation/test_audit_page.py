"""The page of an audit: it parses, needs nothing beside it, escapes what it says."""

import base64
import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from sk_advdef import Diagnosis
from sk_advdef._images import resolve_layout
from sk_advdef.evaluation._audit_page import page
from sk_advdef.evaluation._audit_style import DARK, LIGHT
from sk_advdef.evaluation._diagnosis import Finding
from sk_advdef.evaluation._html import VOID, picture, png
from sk_advdef.evaluation._telling import TellingRow

HOSTILE = "</style></pre><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


class Reader(HTMLParser):
    """Elements in order with their attributes; fails where ends do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def telling(shape=(4,), label="cat"):
    before = np.zeros(shape)
    after = before.copy()
    after.flat[1], after.flat[2] = 0.05, -0.1
    return TellingRow(3, label, HOSTILE, HOSTILE, before, after, 1.0)


@pytest.fixture
def hostile(made_by_hand):
    return made_by_hand(
        diagnosis=Diagnosis([Finding(*[HOSTILE] * 5)], not_checked=[HOSTILE]),
        fail_under=0.9,
        telling=[telling(label=HOSTILE)],
        names=[HOSTILE] * 4,
        model=HOSTILE,
        files={HOSTILE: HOSTILE, "rows": HOSTILE},
        command=HOSTILE,
        notes=[HOSTILE],
    )


def test_every_value_is_escaped(hostile):
    plain = page(hostile)
    read = Reader(plain)
    assert "script" not in {name for name, _ in read.elements}
    assert not read.all("img")
    handlers = [key for _, attrs in read.elements for key in attrs if key[:2] == "on"]
    assert not handlers
    # all of it is there, as words
    assert "".join(read.words).count("alert(1)") >= 10
    assert plain.count("<style>") == plain.count("</style>") == 1


def test_nothing_is_fetched(hostile, made_by_hand):
    for audit in (hostile, made_by_hand()):
        read = Reader(page(audit))
        for name, attributes in read.elements:
            for key in ("src", "href", "data", "action", "xlink:href", "srcset"):
                value = attributes.get(key)
                assert value is None or value.startswith(("#", "data:")), (name, value)
        assert not {"script", "iframe", "object", "embed"} & {
            n for n, _ in read.elements
        }
        style = page(audit).split("<style>")[1].split("</style>")[0]
        assert "url(" not in style and "@import" not in style
        policy = next(m for m in read.all("meta") if "http-equiv" in m)
        assert "default-src 'none'" in policy["content"]


def test_who_reads_by_keyboard_or_ear(hostile):
    read = Reader(page(hostile))
    assert read.all("html")[0]["lang"] == "en"
    assert len(read.all("h1")) == len(read.all("main")) == len(read.all("title")) == 1
    levels = [int(name[1]) for name, _ in read.elements if re.fullmatch("h[1-6]", name)]
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for attributes in read.all("a")]
    assert links[0] == "#main"
    assert {link[1:] for link in links} <= set(ids)
    assert len(read.all("caption")) == len(read.all("table")) >= 4
    assert all("scope" in attributes for attributes in read.all("th"))
    for region in read.all("div"):
        if region.get("class") == "scrolls":
            assert region["tabindex"] == "0" and region["aria-label"]


def luminance(color):
    parts = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(a, b):
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast(colors):
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for ground in ("ground", "card"):
        for role in ("text", "muted", "link", "severe", "warning", "note", "good"):
            assert contrast(colors[role], colors[ground]) >= 4.5, (role, ground)
    for role in ("bar", "worst"):
        assert contrast(colors[role], colors["track"]) >= 3, role


def test_findings_say_how_bad_they_are_in_words(made_by_hand):
    found = [Finding("zero_gradient", "severe", "of 1", "that is", "do it")]
    text = " ".join(Reader(page(made_by_hand(diagnosis=Diagnosis(found)))).words)
    for words in ("severe", ": zero gradient", "of 1", "that is", "do it"):
        assert words in text
    text = page(made_by_hand())
    assert "That is no proof" in text and "other norms." in text
    assert "No row that was right could be shown to be lost." in text


def test_changed_features(made_by_hand):
    audit = made_by_hand(telling=[telling()], names=["a", "b", "c", "d"], eps=0.2)
    words = "|".join(Reader(page(audit)).words)
    assert "2 of 4 features changed" in words
    # the most changed first
    assert "c|0|-0.1|50%|b|0|0.05|25%" in words
    many = telling((40,))
    many.after[:] = np.linspace(0.1, 0.2, 40)
    text = page(made_by_hand(telling=[many], eps=0.2))
    assert "40 of 40 features changed; the 8 most changed" in text
    assert ">feature 39<" in text and ">feature 31<" not in text


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 3), (3, 4, 2)])
def test_pictures(made_by_hand, shape):
    layout = resolve_layout("test", (1, *shape), None, -1)
    read = Reader(page(made_by_hand(telling=[telling(shape)], layout=layout)))
    images = read.all("img")
    assert [image["width"] for image in images] == ["4"] * 3
    assert "cat" in images[0]["alt"] and "red raised" in images[2]["alt"]


def test_how_far_and_how_certain(made_by_hand):
    eps = np.array([0.0, 0.1, 0.3])
    audit = made_by_hand(eps=eps)
    audit.report.threat["bounds"] = (eps - 1, eps + 1)
    text = page(audit)
    assert "0 to 0.3, feature by feature (1 features cannot be changed)" in text
    assert "within the range that the feature has in the data" in text
    audit.report.threat["bounds"] = None
    object.__setattr__(audit.report, "certified", 0.4)
    text = page(audit)
    assert "without a box" in text and "proved by TreeExact: a lower bound" in text


@pytest.mark.parametrize("channels", [1, 3])
def test_png_is_what_another_reader_sees(tmp_path, channels):
    image = pytest.importorskip("PIL.Image")
    levels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    (tmp_path / "a.png").write_bytes(png(levels))
    with image.open(tmp_path / "a.png") as read:
        np.testing.assert_array_equal(np.asarray(read).reshape(levels.shape), levels)
    tagged = picture(levels / 255, "what")
    data = re.search('base64,([^"]+)', tagged)[1]
    assert base64.b64decode(data) == png(levels)
