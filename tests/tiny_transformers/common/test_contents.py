import json
import os

import pytest

from tiny_transformers.common import contents


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_is_hashed_once_for_each_state_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "SETTLED", -1)
    file, cache = write(tmp_path / "a.jsonl", {"text": "The cat."}), tmp_path / "cache"
    assert contents.known_fingerprint(file, cache) == contents.fingerprint(file)
    with monkeypatch.context() as patch:
        patch.setattr(contents, "fingerprint", lambda _: pytest.fail("hashed again"))
        contents.known_fingerprint(file, cache)
    before = file.stat()
    while file.stat().st_ctime_ns == before.st_ctime_ns:  # the file system's clock may be coarse
        write(file, {"text": "The dog."})
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert contents.known_fingerprint(file, cache) == contents.fingerprint(file)
    assert len(list((cache / "fingerprints").iterdir())) == 1


def test_the_hash_of_a_file_just_written_is_not_kept(tmp_path):
    contents.known_fingerprint(write(tmp_path / "a.jsonl", {"text": "The cat."}), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
