"""The parts of a history against straightforward versions of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sk_advdef.concealment import _postings
from sk_advdef.concealment._accounts import account_id, per_row
from sk_advdef.concealment._columns import Bounds
from sk_advdef.concealment._history import NO_NOTE, History, Query
from sk_advdef.concealment._matching import Families, Neighbors, Sketches
from sk_advdef.concealment._postings import Postings
from sk_advdef.concealment._sketch import Sketcher, background_of
from sk_advdef.concealment._watch import packed, unpacked

rng = np.random.default_rng(0)
WIDE = Bounds(10**6, 10**6, np.inf)


def vector_history(k=3, scope="corroborated", bounds=WIDE, cls=Neighbors, far=10.0):
    return History(cls(2, k, far, scope), bounds)


def ask(history, account, *values, time=0.0, digest=None, note=NO_NOTE):
    digest = hash(values) & (2**63 - 1) if digest is None else digest
    code = np.array(values, dtype=np.float32)
    return history.observe(Query(account, time, digest, code, note))


@pytest.fixture
def small_runs(monkeypatch):
    monkeypatch.setattr(_postings, "FRESH", 8)
    monkeypatch.setattr(_postings, "LEVELS", (16, 32))
    monkeypatch.setattr(_postings, "MAX_SEALED", 2)
    monkeypatch.setattr(_postings, "MAX_OF_TOKEN", 10**6)


@pytest.mark.usefixtures("small_runs")
@given(
    sketches=st.lists(
        # tokens that differ in both halves, in one, and not at all
        st.sets(
            st.sampled_from([1, 2, 65536, 65537, 2**32 - 1, 2**31, 7, 9]), max_size=5
        ),
        max_size=150,
    ),
    asked=st.sets(st.sampled_from([1, 2, 65536, 65537, 2**32 - 1, 8]), max_size=6),
    dead=st.sets(st.integers(0, 149)),
)
@settings(max_examples=60)
def test_postings_count_like_sets(sketches, asked, dead):
    index, alive = Postings(), np.ones(200, dtype=bool)
    for position, tokens in enumerate(sketches):
        index.add(position, np.array(sorted(tokens), dtype=np.uint32), alive)

    def check(wanted):
        at, counts = index.matches(np.array(sorted(asked), dtype=np.uint32))
        assert dict(zip(at.tolist(), counts.tolist(), strict=True)) == wanted
        assert (np.diff(at) > 0).all()

    common = {p: len(tokens & asked) for p, tokens in enumerate(sketches)}
    common = {p: n for p, n in common.items() if n}
    check(common)
    for token in (1, 65537, 12345):
        under = [p for p, tokens in enumerate(sketches) if token in tokens]
        assert index.under(token).tolist() == under
    dead &= set(range(len(sketches)))
    left = [p for p in range(len(sketches)) if p not in dead]
    new_of = np.full(len(sketches), -1)
    new_of[left] = np.arange(len(left))
    index.compact(new_of)
    check({int(new_of[p]): n for p, n in common.items() if p not in dead})


@pytest.mark.usefixtures("small_runs")
def test_dead_entries_leave_with_a_merge():
    index, alive = Postings(), np.ones(1000, dtype=bool)
    for position in range(400):
        index.add(position, np.array([position, 7], dtype=np.uint32), alive)
        alive[: max(0, position - 10)] = False
    assert 10 < len(index.under(7)) < 120
    assert set(range(390, 400)) <= set(index.under(7).tolist())


def test_a_token_of_many_tells_of_the_youngest(monkeypatch):
    monkeypatch.setattr(_postings, "FRESH", 16)
    monkeypatch.setattr(_postings, "MAX_OF_TOKEN", 4)
    index, alive = Postings(), np.ones(100, dtype=bool)
    for position in range(40):
        index.add(position, np.array([7], dtype=np.uint32), alive)
    at, _ = index.matches(np.array([7], dtype=np.uint32))
    assert at.tolist() == [28, 29, 30, 31, 36, 37, 38, 39]
    assert len(index.under(7)) == 40


def test_runs_against_a_search_through_all(monkeypatch):
    rng = np.random.default_rng(1)
    monkeypatch.setattr(_postings, "BUCKET", 1)
    tokens = rng.integers(0, 2**32, 90_000, dtype=np.uint64)
    # some of a bucket, and one that very many have
    tokens[:300] = tokens[0] & np.uint64(2**32 - 2**6) | rng.integers(
        0, 4, 300, dtype=np.uint64
    )
    tokens[300:900] = 12345
    keys = np.sort(tokens << np.uint64(32) | np.arange(90_000, dtype=np.uint64))
    run = _postings.Run(keys)
    assert len(run.starts) > 2**16 + 1
    np.testing.assert_array_equal(run.keys(), keys)
    asked = np.unique(np.concatenate([tokens[::1000], [12345, 7]])).astype(np.uint32)
    found = np.sort(np.concatenate(run.find(asked)))
    wanted = [np.flatnonzero(tokens == token)[-64:] for token in asked]
    np.testing.assert_array_equal(found, np.sort(np.concatenate(wanted)))
    np.testing.assert_array_equal(run.find_one(12345), np.arange(300, 900))
    assert run.find(asked[:0]) == [] and len(run.find_one(7)) == 0


@pytest.mark.usefixtures("small_runs")
def test_large_runs_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr(_postings, "LARGE", 100)
    index, alive = Postings(), np.ones(2000, dtype=bool)
    for position in range(1500):
        index.add(position, np.array([7, position + 10], dtype=np.uint32), alive)
    sizes = [len(run) for run in index._sealed]
    assert max(sizes) < 500 and sum(size >= 100 for size in sizes) > 3
    assert index.under(7).tolist() == list(range(1500))


def sketcher(window=4, n=40, size=8, background=None, key=b"k" * 32, quantization=50):
    return Sketcher(
        key,
        window=window,
        size=size,
        quantization=quantization,
        low=np.array(0.0),
        width=np.array(1.0),
        background=np.full(n, np.nan) if background is None else background,
    )


def test_hashes_of_windows_agree_where_their_cells_do():
    """Against the definition: a hash stands for the cells of its window."""
    make = sketcher(window=3, n=200, quantization=64)
    row = rng.random(200)
    levels = make._levels(row)
    hashes = make.hashes(row)
    assert len(hashes) == 198
    of_window = {}
    for at, value in enumerate(hashes.tolist()):
        of_window.setdefault(tuple(levels[at : at + 3].tolist()), set()).add(value)
    assert all(len(values) == 1 for values in of_window.values())
    assert len({next(iter(v)) for v in of_window.values()}) == len(of_window)


@given(size=st.integers(8, 30), n=st.integers(10, 300), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_sketch_holds_the_smallest_hashes(size, n, seed):
    make = sketcher(n=n, size=size)
    # cells that repeat, so that windows do too
    row = np.random.default_rng(seed).integers(0, 2, n) * 0.9
    wanted = np.unique(make.hashes(row))[:size].astype(np.uint32)
    found = make(row)
    assert found.dtype == np.uint32 and (np.diff(found.astype(int)) > 0).all()
    np.testing.assert_array_equal(found, np.unique(wanted))


def test_small_changes_leave_most_tokens_and_other_rows_share_none():
    make = sketcher(window=8, n=500, size=50)
    row = rng.random(500)
    near = row + rng.uniform(-0.002, 0.002, 500)
    assert len(np.intersect1d(make(row), make(near))) > 25
    assert len(np.intersect1d(make(row), make(rng.random(500)))) == 0
    other_key = sketcher(window=8, n=500, size=50, key=b"l" * 32)
    assert len(np.intersect1d(make(row), other_key(row))) == 0


def test_background_tells_nothing():
    background = np.zeros(100)
    make = sketcher(window=5, n=100, background=background)
    drawn = []
    for at in (20, 60):
        row = background.copy()
        row[at : at + 10] = rng.random(10) / 2 + 0.5
        drawn.append(make(row))
    assert len(np.intersect1d(*drawn)) == 0
    bare = sketcher(window=5, n=100)
    assert len(np.intersect1d(bare(row), bare(background))) > 0
    # a row that shows nothing at all is still told from no row
    assert len(make(background)) > 0


def test_background_of_rows():
    rows = rng.random((100, 3))
    rows[:30, 1] = 0.25
    found = background_of(rows, 0.2)
    np.testing.assert_array_equal(found, [np.nan, 0.25, np.nan])
    assert np.isnan(background_of(rows[:5], 0.2)).all()


def mean_of_nearest(past, row, k, far):
    apart = sorted(np.sqrt(((p - row) ** 2).sum()) for p in past)[:k]
    return np.mean(np.minimum(apart + [far] * (k - len(apart)), far))


def test_neighbors_like_the_definition():
    history, past = vector_history(scope="shared"), []
    for row in rng.normal(size=(60, 2)).astype(np.float32):
        found = ask(history, b"a", *row.tolist())
        wanted = mean_of_nearest(past, row, 3, 10.0)
        np.testing.assert_allclose(found.score, wanted, rtol=1e-5)
        past.append(row)


def test_near_copies_are_told_apart_to_the_last_digits():
    """The squared form of a distance alone would lose them in rounding."""
    history = vector_history(k=1)
    ask(history, b"a", 1000.0, 1000.0)
    found = ask(history, b"a", 1000.0, 1000.0 + 1e-3)
    assert 0.0005 < found.score < 0.0015


@pytest.mark.parametrize("cls", [Neighbors, Families])
def test_whose_rows_are_evidence(cls):
    def score_of_bob(scope, *own):
        history = vector_history(scope=scope, cls=cls)
        for i in range(20):
            ask(history, b"mallory", 0.01 * i, 0.0)
        for row in own:
            ask(history, b"bob", *row)
        return ask(history, b"bob", 0.105, 0.0).score

    # whatever others ask, who has not asked himself is not flagged for it
    assert score_of_bob("account") == score_of_bob("corroborated") == 10.0
    assert score_of_bob("shared") < 0.05
    # with one query of his own the others bear it out
    assert score_of_bob("corroborated", (0.12, 0.0)) < 0.05
    assert score_of_bob("account", (0.12, 0.0)) > 5
    assert score_of_bob("corroborated", (5.0, 0.0)) > 4


def test_families_notice_those_who_surround_and_those_who_walk_away():
    centers = 5 * rng.normal(size=(2, 2))
    around = centers[0] + 0.05 * rng.normal(size=(12, 2))
    away = centers[1] + np.cumsum(0.05 * rng.normal(size=(12, 2)), axis=0)
    for rows in (around, away):
        history = vector_history(k=4, cls=Families)
        scores = [ask(history, b"a", *row.tolist()).score for row in rows]
        assert scores[0] == 10.0 and np.median(scores[6:]) < 0.5
    history = vector_history(k=4, cls=Families)
    strewn = [ask(history, b"a", *row).score for row in 50 * rng.normal(size=(30, 2))]
    assert min(strewn) > 0.5


@pytest.mark.parametrize("cls", [Neighbors, Families])
def test_exact_repeats_are_no_evidence(cls):
    history = vector_history(k=1, cls=cls)
    first = ask(history, b"a", 1.0, 1.0)
    ask(history, b"a", 4.0, 1.0)
    ask(history, b"a", 1.01, 1.0)
    again = ask(history, b"a", 1.0, 1.0)
    # as it was then, although near copies came in between
    assert again.is_repeat and again.score == first.score == 10.0
    assert history.n_alive == 3
    # another account that asks the same is not like the first one, and is remembered
    other = ask(history, b"b", 1.0, 1.0)
    assert not other.is_repeat and other.score > 1
    assert history.n_alive == 4


@pytest.mark.parametrize("cls", [Neighbors, Families, Sketches])
def test_a_repeat_of_a_flagged_row_stays_flagged(cls):
    if cls is Sketches:
        history = History(Sketches(8, "account"), WIDE)
        codes = [np.arange(8, dtype=np.uint32), np.arange(1, 9, dtype=np.uint32)]
        asked = [Query(b"a", 0.0, i, code) for i, code in enumerate(codes)]
    else:
        history = vector_history(k=1, cls=cls)
        codes = [np.array([0.0, 0.0], "f"), np.array([0.0, 0.1], "f")]
        asked = [Query(b"a", 0.0, i, code) for i, code in enumerate(codes)]
    history.observe(asked[0])
    flagged = history.observe(asked[1])
    assert flagged.score < 0.5
    again = history.observe(asked[1])
    assert again.is_repeat and again.score == flagged.score


def test_the_oldest_of_similar_queries_lends_its_note():
    for cls in (Neighbors, Families):
        history = vector_history(k=2, cls=cls)
        ask(history, b"a", 50.0, 0.0, note=1)
        ask(history, b"a", 0.0, 0.0, note=2)
        ask(history, b"a", 0.1, 0.0, note=3)
        assert ask(history, b"a", 0.05, 0.0, note=4).note == 2
    history = History(Sketches(8, "account"), WIDE)
    for i, start in enumerate([100, 0, 0]):
        tokens = np.arange(start, start + 8, dtype=np.uint32)
        found = history.observe(Query(b"a", 0.0, i, tokens, i))
    assert found.note == 1


def test_reading_remembers_nothing_and_sees_all():
    history = vector_history(k=1)
    assert history.score(1, np.zeros(2, "f")) == 10.0
    ask(history, b"a", 0.0, 0.0)
    assert history.score(1, np.array([0.0, 0.5], "f")) == pytest.approx(0.5)
    assert history.n_alive == 1


def holds(history, account, *values):
    """Whether a query is still remembered."""
    digest = hash(values) & (2**63 - 1)
    return history.knows(account, digest, history.latest)


@pytest.mark.parametrize("cls", [Neighbors, Families])
def test_a_flood_drives_out_itself(cls):
    history = vector_history(bounds=Bounds(100, 60, np.inf), cls=cls)
    for i in range(30):
        ask(history, b"bob", float(i), 0.0)
    for i in range(6000):
        ask(history, b"mallory", float(i), 1.0)
    assert history.n_alive == 90
    assert all(holds(history, b"bob", float(i), 0.0) for i in range(30))
    assert holds(history, b"mallory", 5940.0, 1.0)
    assert not holds(history, b"mallory", 5939.0, 1.0)
    # where all rows are taken the largest account gives up its own
    for i in range(25):
        ask(history, b"eve", float(i), 2.0)
    assert history.n_alive == 100
    assert all(holds(history, b"bob", float(i), 0.0) for i in range(30))
    assert all(holds(history, b"eve", float(i), 2.0) for i in range(25))
    # what is dead has left the arrays
    assert history.columns.n < 2 * 100 + 4098
    stats = history.stats()
    assert stats["rows"] == 100 and stats["accounts"] == 3 and stats["bytes"] > 0


def test_sketches_through_a_compaction():
    history = History(Sketches(8, "account"), Bounds(50, 50, np.inf))
    for i in range(9000):
        tokens = np.arange(10 * i, 10 * i + 8, dtype=np.uint32)
        history.observe(Query(b"a", 0.0, i, tokens))
    assert history.columns.n < 6000
    for i, wanted in ((8949, 1.0), (8950, 0.0), (8999, 0.0)):
        tokens = np.arange(10 * i, 10 * i + 8, dtype=np.uint32)
        assert history.score(10**6, tokens) == wanted


def test_age():
    history = vector_history(k=1, bounds=Bounds(100, 100, 10.0))
    for i in range(30):
        ask(history, b"a", float(i), 0.0, time=float(i))
    assert history.n_alive == 11
    assert not holds(history, b"a", 18.0, 0.0) and holds(history, b"a", 19.0, 0.0)
    ask(history, b"b", 0.0, 5.0, time=1000.0)
    assert history.n_alive == 1 and len(history.shares) == 1


@given(
    moves=st.lists(
        st.tuples(st.sampled_from([b"a", b"b", b"c", b"d"]), st.booleans()),
        max_size=120,
    ),
    rows=st.integers(1, 12),
    quota=st.integers(1, 12),
)
@settings(max_examples=80)
def test_bounds_hold_always(moves, rows, quota):
    history = vector_history(bounds=Bounds(rows, quota, 5.0))
    model, now = [], 0.0
    for i, (account, pause) in enumerate(moves):
        now += 2.0 * pause
        ask(history, account, float(i), 0.0, time=now)
        model = [m for m in model if m[1] >= now - 5.0]
        counts = {a: sum(m[0] == a for m in model) for a in (b"a", b"b", b"c", b"d")}
        if counts[account] >= quota:
            model.remove(next(m for m in model if m[0] == account))
        elif len(model) >= rows:
            gone = [a for a in counts if counts[a] == max(counts.values())]
            left = {a for a in gone if not holds_oldest(history, model, a)}
            assert len(left) == 1
            model.remove(next(m for m in model if m[0] in left))
        model.append((account, now, i))
        assert history.n_alive == len(model) <= rows
        for name, _, number in model:
            assert holds(history, name, float(number), 0.0)


def holds_oldest(history, model, account):
    number = next(m[2] for m in model if m[0] == account)
    return holds(history, account, float(number), 0.0)


def test_accounts():
    names = [None, "a", b"a", "1", 1, "None", "", "\udcff", 2**80]
    ids = [account_id("x", name) for name in names]
    assert len(set(ids)) == len(names)
    assert {len(i) for i in ids} == {16}
    assert account_id("x", "a", b"key") != account_id("x", "a")
    assert account_id("x", np.int64(1)) == account_id("x", 1)
    for bad in (1.5, True, ("a",), object()):
        with pytest.raises(ValueError, match="'account' parameter"):
            account_id("x", bad)
    assert per_row("x", "ab", 2) == ["ab", "ab"]
    assert per_row("x", ["a", None], 2) == ["a", None]
    assert per_row("x", np.array("a"), 2) == ["a", "a"]
    assert per_row("x", np.array(["a", "b"]), 2) == ["a", "b"]
    with pytest.raises(ValueError, match="holds 3 accounts for 2 rows"):
        per_row("x", ["a", "b", "c"], 2)


@pytest.mark.parametrize("cls", [Neighbors, Families, Sketches])
@given(
    moves=st.lists(
        st.tuples(
            st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 6), st.booleans()
        ),
        max_size=60,
    )
)
@settings(max_examples=40)
def test_what_is_only_added_is_remembered_as_what_is_scored(cls, moves):
    """A process that catches up knows what it would if it had been there."""
    bounds = Bounds(12, 7, 5.0)

    def make():
        if cls is Sketches:
            return History(Sketches(8, "corroborated"), bounds)
        return vector_history(bounds=bounds, cls=cls)

    there, later, now = make(), make(), 0.0
    for i, (account, value, pause) in enumerate(moves):
        now += 2.0 * pause
        code = np.array([value, 0.3 * (i % 3)], dtype=np.float32)
        if cls is Sketches:
            code = np.arange(4 * value + i % 3, 4 * value + 8, dtype=np.uint32)
        query = Query(account, now, (3 * value + i % 3) << 32, code, i)
        there.observe(query)
        later.add(query)
        assert later.stats() == there.stats()
    for account in (b"a", b"b", b"c", b"d"):
        for value in range(7):
            code = np.array([value, 0.5], dtype=np.float32)
            if cls is Sketches:
                code = np.arange(4 * value, 4 * value + 8, dtype=np.uint32)
            query = Query(account, now, 1, code)
            assert later.observe(query) == there.observe(query)


@pytest.mark.parametrize("note", [-1, 99_999])
@pytest.mark.parametrize("kind", [np.float32, np.uint32])
def test_records(kind, note):
    code = np.arange(5, dtype=kind)
    query = Query(b"0123456789abcdef", 1.25, 2**64 - 1, code, note)
    found = unpacked(packed(query), kind)
    assert found[:3] == query[:3] and found.note == query.note
    np.testing.assert_array_equal(found.code, code)
    assert len(packed(query)) <= 400
