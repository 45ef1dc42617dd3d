"""`lake fold` and `merge` make the same file of the same recordings."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from lakes import add, folded, observation, recordings

from callfence.policygen.recording import many, recording_file
from callfence.policygen.recording.model import Recording, Run


@pytest.mark.long
@settings(max_examples=60)
@given(st.lists(recordings(), min_size=1, max_size=4), st.integers(0, 3))
def test_the_fold_is_that_of_merge(several: list[Recording], division: int) -> None:
    """Also where runs are in several recordings, and where these are added in two parts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / f"{number}.rec" for number in range(len(several))]
        for path, recording in zip(paths, several, strict=True):
            recording_file.save(path, recording)
        many.merge_files(folder / "merged", paths)
        for some in (paths[:division], paths[division:]):
            add(folder / "lake", *some)
        assert folded(folder / "lake") == (folder / "merged").read_bytes()


def test_of_two_records_of_a_run_the_least_site_counts(tmp_path: Path) -> None:
    """Then the least example; random recordings seldom have both."""
    whole = Run("a", 1, ("./app",), 0, True)
    for number, (site, register) in enumerate([("b", 1), ("a", 1 << 63), ("a", 3)]):
        one = observation(3)._replace(site=site, example=(register, 0, 0, 0, 0, 0))
        recording_file.save(tmp_path / f"{number}.rec", Recording((whole,), (one,)))
    add(tmp_path / "lake", tmp_path)
    many.merge_files(tmp_path / "merged", [*tmp_path.glob("*.rec")])
    assert folded(tmp_path / "lake") == (tmp_path / "merged").read_bytes()
    (found,) = recording_file.load(tmp_path / "merged").observations
    assert (found.site, found.example[0]) == ("a", 3)
