"""Sets of point tracks."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from megasam_server.tracking.tracks import Tracks, join, longest_spread

EMPTY = Tracks.from_observations(np.empty(0, int), np.empty(0, int), np.empty((0, 2)))


def random_tracks(seed: int, num: int = 40, frames: int = 12) -> Tracks:
    """Each frame sees a random half of the tracks; ids have gaps and no order."""
    rng = np.random.default_rng(seed)
    track, frame = np.nonzero(rng.random((num, frames)) < 0.5)
    ids = rng.permutation(10 * num)[:num]
    mixed = rng.permutation(len(track))
    xy = np.stack([rng.uniform(0, 640, len(track)), rng.uniform(0, 360, len(track))], axis=1)
    return Tracks.from_observations(ids[track[mixed]], frame[mixed], xy)


def observations(tracks: Tracks) -> set:
    """(frame, x, y) of every sighting: what must survive all numbering."""
    return set(zip(tracks.frame.tolist(), *tracks.xy.T.tolist(), strict=True))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_tracks_are_numbered_without_gaps_and_sorted(seed):
    tracks = random_tracks(seed)
    assert np.unique(tracks.track).tolist() == list(range(tracks.num_tracks))
    assert (np.diff(tracks.track * 100 + tracks.frame) > 0).all()
    assert tracks.lengths().sum() == len(tracks.track)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_minimum_length_keeps_whole_tracks(seed, length):
    tracks = random_tracks(seed)
    kept = tracks.with_min_length(length)
    assert (kept.lengths() >= length).all()
    assert kept.num_tracks == (tracks.lengths() >= length).sum()
    assert observations(kept) <= observations(tracks)


def test_select_keeps_exactly_the_chosen_sightings():
    tracks = random_tracks(1)
    keep = tracks.frame % 3 == 0
    assert observations(tracks.select(keep)) == {o for o in observations(tracks) if o[0] % 3 == 0}
    assert tracks.select(np.zeros(len(keep), bool)).num_tracks == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_shared_pairs_the_sightings_of_one_track(seed):
    tracks = random_tracks(seed)
    ids, a, b = tracks.shared(3, 7)
    where = {(t, f): xy for t, f, xy in zip(tracks.track, tracks.frame, tracks.xy, strict=True)}
    expected = [t for t in range(tracks.num_tracks) if (t, 3) in where and (t, 7) in where]
    assert ids.tolist() == expected
    for one, xy_a, xy_b in zip(ids, a, b, strict=True):
        np.testing.assert_array_equal(xy_a, where[one, 3])
        np.testing.assert_array_equal(xy_b, where[one, 7])
    assert len(tracks.shared(3, 99)[0]) == 0


def test_join_keeps_both_apart():
    first, second = random_tracks(1), random_tracks(2, num=25)
    both = join(first, second)
    assert both.num_tracks == first.num_tracks + second.num_tracks
    assert observations(both) == observations(first) | observations(second)
    lengths = np.concatenate([first.lengths(), second.lengths()])
    np.testing.assert_array_equal(both.lengths(), lengths)


def test_join_with_nothing_changes_nothing():
    tracks = random_tracks(1)
    for both in (join(tracks, EMPTY), join(EMPTY, tracks)):
        assert both.num_tracks == tracks.num_tracks
        np.testing.assert_array_equal(both.xy, tracks.xy)
    assert join(EMPTY, EMPTY).num_tracks == 0
    assert EMPTY.with_min_length(2).num_tracks == 0
    assert longest_spread(EMPTY, 100, 640, 360).num_tracks == 0


def grid_tracks(count: int, x: float, y: float, frames: int, first_id: int) -> tuple:
    """``count`` tracks that stay near (x, y) for ``frames`` frames."""
    track, frame = (a.ravel() for a in np.indices((count, frames)))
    xy = np.tile([x, y], (len(track), 1)) + 0.01 * track[:, None]
    return track + first_id, frame, xy


def test_longest_spread_prefers_long_tracks_and_keeps_them_whole():
    short = grid_tracks(50, 100, 100, 3, 0)
    long = grid_tracks(4, 100, 100, 10, 100)
    both = Tracks.from_observations(*(np.concatenate(p) for p in zip(short, long, strict=True)))
    kept = longest_spread(both, 96, 640, 360)  # two for each of the 48 cells
    assert kept.lengths().tolist() == [10, 10]


def test_longest_spread_does_not_let_a_textured_corner_outvote_the_rest():
    crowd = grid_tracks(500, 40, 30, 10, 0)
    lonely = [
        grid_tracks(1, x, y, 5, 1000 + i)
        for i, (x, y) in enumerate((x, y) for x in range(120, 640, 80) for y in range(90, 360, 60))
    ]
    parts = zip(crowd, *lonely, strict=True)
    tracks = Tracks.from_observations(*(np.concatenate(p) for p in parts))
    kept = longest_spread(tracks, 96, 640, 360)
    in_crowd = np.unique(kept.track[kept.xy[:, 0] < 80])
    assert kept.num_tracks - len(in_crowd) == len(lonely)
    assert len(in_crowd) == 2


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(10, 600))
def test_longest_spread_leaves_no_cell_empty_that_had_a_track(seed, per_frame):
    tracks = random_tracks(seed, num=120)
    kept = longest_spread(tracks, per_frame, 640, 360)
    assert observations(kept) <= observations(tracks)

    def cells(some: Tracks) -> set:
        column, row = (some.xy * [8 / 640, 6 / 360]).astype(int).T
        return set(zip(some.frame.tolist(), column.tolist(), row.tolist(), strict=True))

    assert cells(kept) == cells(tracks)
    whole = {tuple(row) for row in np.stack([kept.lengths()], axis=1)}
    assert whole <= {tuple(row) for row in np.stack([tracks.lengths()], axis=1)}


def test_points_on_the_rim_and_outside_count_into_the_outer_cells():
    xy = np.array([[-3.0, -2.0], [639.9, 359.9], [645.0, 400.0]])
    tracks = Tracks.from_observations(np.arange(3), np.zeros(3, int), xy)
    assert longest_spread(tracks, 480, 640, 360).num_tracks == 3
