"""What a report shows: tables, words, JSON and pictures."""

import copy
import json
import pickle
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from sk_advdef import RobustnessReport
from sk_advdef.evaluation._intervals import wilson
from sk_advdef.evaluation._report import AttackFigures


def line(name, share, **params):
    given = {"knows": "all", "rows": 8, "distortion": 0.1, "queries": 3.0}
    given |= {"seconds": 0.5, "settings": "PGD(eps=0.1)"} | params
    low, high = wilson(share, given["rows"])
    return AttackFigures(attack=name, share=share, low=low, high=high, **given)


def make(**params):
    clean = {"knows": "", "distortion": np.nan, "queries": 0.0, "settings": ""}
    given = {
        "attacks": [line("clean", 0.75, **clean), line("<b>PGD</b> & more", 0.5)],
        "held": np.arange(10) < 3,
        "evaluated": np.arange(10) < 8,
        "threat": {
            "norm": "linf",
            "eps": np.linspace(0, 1, 64),
            "bounds": (np.zeros(64), np.ones(64)),
            "random_state": np.random.RandomState(0),
            "rows": np.int64(8),
        },
        "not_tried": ["<i>more</i>."],
        "rejection": {"genuine rows rejected": 0.125, "lost at": {0.01: 0.5}},
        "detection": {"the detector": {"at 5% false positives": np.nan}},
    }
    return RobustnessReport(**given | params)


@pytest.fixture(scope="session")
def report():
    return make()


@pytest.mark.parametrize("rows", [1, 3, 4, 17, 1000])
def test_wilson(rows):
    for right in {0, 1, rows // 2, rows}:
        low, high = wilson(right / rows, rows)
        z, share = norm.ppf(0.975), right / rows
        middle = share + z**2 / (2 * rows)
        half = z * np.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
        expected = np.array([middle - half, middle + half]) / (1 + z**2 / rows)
        np.testing.assert_allclose((low, high), expected, rtol=1e-9, atol=1e-15)
        assert 0 <= low <= right / rows <= high <= 1
        assert type(low) is type(high) is float
    assert wilson(np.nan, 0) == (0.0, 1.0)


def test_figures(report):
    assert report.clean_accuracy == 0.75
    # three of the eight that were evaluated
    assert report.worst_case_accuracy == 0.375
    assert report.worst_case_interval == wilson(0.375, 8)
    # rows cut off may be held or not: they count neither way
    held = report.held | (np.arange(10) >= 8)
    assert make(held=held).worst_case_accuracy == 0.375
    nothing = make(evaluated=np.zeros(10, dtype=bool))
    assert np.isnan(nothing.worst_case_accuracy)
    assert nothing.worst_case_interval == (0.0, 1.0)
    again = pickle.loads(pickle.dumps(report))
    assert str(again) == str(report) == str(copy.deepcopy(report))


def test_json(report):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(report.to_json(), parse_constant=refuse)
    assert found["rows"] == 10 and found["evaluated"] == 8
    assert found["worst_case_accuracy"] == 0.375
    assert found["worst_case_interval"] == list(wilson(0.375, 8))
    assert found["threat"]["eps"] == np.linspace(0, 1, 64).tolist()
    assert found["threat"]["bounds"] == [[0.0] * 64, [1.0] * 64]
    assert found["threat"]["rows"] == 8
    assert found["threat"]["random_state"].startswith("RandomState")
    clean, attacked = found["attacks"]
    assert clean["distortion"] is None and attacked["distortion"] == 0.1
    assert attacked["attack"] == "<b>PGD</b> & more"
    assert attacked["settings"] == "PGD(eps=0.1)"
    assert found["rejection"] == {
        "genuine rows rejected": 0.125,
        "lost at": {"0.01": 0.5},
    }
    assert found["detection"] == {"the detector": {"at 5% false positives": None}}
    assert found["not_tried"] == ["<i>more</i>."]
    for share, by in ((None, None), (0.25, "interval bounds")):
        told = make(certified=share, certified_by="interval bounds").to_dict()
        assert (told["certified"], told["certified_by"]) == (share, by)
    nothing = make(evaluated=np.zeros(10, dtype=bool)).to_json()
    assert json.loads(nothing)["worst_case_accuracy"] is None
    assert np.isnan(report.to_dict()["attacks"][0]["distortion"])


def test_frame(report):
    frame = report.to_frame()
    assert isinstance(frame, pd.DataFrame)
    names = ["clean", "<b>PGD</b> & more", "worst case per row"]
    assert frame["attack"].tolist() == names
    assert frame["share"].tolist() == [0.75, 0.5, 0.375]
    assert frame["rows"].tolist() == [8, 8, 8]
    assert frame["queries"].tolist() == [0, 3, 3]
    assert frame["seconds"].tolist() == [0.5, 0.5, 1.0]
    assert ((frame["low"] <= frame["share"]) & (frame["share"] <= frame["high"])).all()


def test_text(report):
    table, words = str(report).split("\n\n")
    head, clean, attacked, worst = table.splitlines()
    assert head.split()[:3] == ["attack", "knows", "accuracy"]
    assert clean.split()[:2] == ["clean", "75.0%"] and "nan" not in table
    assert attacked.startswith("<b>PGD</b> & more   all")
    assert worst.startswith("worst case per row") and "37.5%" in worst
    assert len({len(text) for text in (head, clean, attacked, worst)}) == 1
    assert words.splitlines() == [
        "Accuracy under the strongest attack we ran (an upper bound): 37.5% of 8 rows "
        "(norm linf, eps 0 to 1 by feature, bounds (0 to 0 by feature, 1 to 1 by "
        "feature), random_state RandomState(MT19937), rows 8).",
        "Not evaluated, for lack of time: 2 rows.",
        "genuine rows rejected: 0.125.",
        "lost at: 0.01: 0.5.",
        "Attacked rows found by the detector: at 5% false positives nan%.",
        "Not tried: <i>more</i>.",
    ]
    short = make(threat={"eps": np.array([0.5, 1]), "bounds": (0, 16.0)})
    assert "(eps [0.5 1. ], bounds (0, 16))" in str(short)
    whole = make(evaluated=np.ones(10, dtype=bool))
    assert "lack of time" not in str(whole)


def test_html(report):
    text = report._repr_html_()
    assert "<b>" not in text and "<i>" not in text
    assert "<td>&lt;b&gt;PGD&lt;/b&gt; &amp; more</td>" in text
    assert "<p>Not tried: &lt;i&gt;more&lt;/i&gt;.</p>" in text
    assert text.count("<tr>") == text.count("</tr>") == 4


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rows", [3, 4, 5, 100])
def test_plot(share, rows):
    from matplotlib import pyplot as plt

    some = make(
        attacks=[line("clean", share, rows=rows), line("PGD", share, rows=rows)],
        held=np.full(rows, share > 0),
        evaluated=np.ones(rows, dtype=bool),
    )
    ax = some.plot()
    assert [t.get_text() for t in ax.get_yticklabels()] == [
        "worst case per row",
        "PGD",
        "clean",
    ]
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == [float(share > 0), share, share]
    plt.close(ax.figure)
    figure, own = plt.subplots()
    assert some.plot(own) is own
    plt.close(figure)


def test_missing_packages(report, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="to_frame needs pandas: pip install pandas"):
        report.to_frame()
    message = r"plot needs matplotlib. Install it with pip .*sk_advdef\[plot\]"
    with pytest.raises(ImportError, match=message):
        report.plot()
    assert report.to_json() and str(report) and report._repr_html_()
