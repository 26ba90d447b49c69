"""New lines of files that are appended to and replaced."""

import os
from pathlib import Path

from windlass.engine.pods.follow import Followed, News


def test_only_whole_new_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    followed = Followed(path)
    assert followed.read() == News(False, 0, b"")
    path.write_bytes(b"one\ntw")
    assert followed.read() == News(True, 0, b"one\n")
    with open(path, "ab") as file:
        file.write(b"o\nthree\n")
    assert followed.read() == News(False, 4, b"two\nthree\n")
    assert followed.read() == News(False, 14, b"")


def test_a_replaced_file_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old\n")
    followed = Followed(path)
    followed.read()
    for content in (b"new\n", b"newer\n", b""):  # a file system uses numbers of deleted files again
        partial = tmp_path / "partial"
        partial.write_bytes(content)
        os.replace(partial, path)
        assert followed.read() == News(True, 0, content)
