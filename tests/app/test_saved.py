"""Queries of the user's, as files."""

import pytest

from app import saved


def test_a_query_is_kept_replaced_and_forgotten(tmp_path):
    folder = tmp_path / "queries"
    assert saved.queries(folder) == {}
    saved.save(folder, "b", "SELECT 1")
    saved.save(folder, "数学 (v1.2)", "SELECT '数'")
    saved.save(folder, "b", "SELECT 2\n")
    assert saved.queries(folder) == {"b": "SELECT 2\n", "数学 (v1.2)": "SELECT '数'"}
    assert {file.suffix for file in folder.iterdir()} == {".sql"}
    saved.delete(folder, "b")
    saved.delete(folder, "b")
    assert list(saved.queries(folder)) == ["数学 (v1.2)"]


@pytest.mark.parametrize(
    "name", ["", " a", ".hidden", "a/b", "../a", "a\\b", "a\nb", "a\0b", "a.", "a ", "x" * 81, "-a"]
)
def test_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    for act in (lambda: saved.save(tmp_path, name, "x"), lambda: saved.delete(tmp_path, name)):
        with pytest.raises(saved.NameRefused, match="letters"):
            act()
    assert list(tmp_path.iterdir()) == []
