"""What the system refuses is told with whose it is and what to do. Root, whom no mode bars, is barred by a stand-in."""

import errno
import os
import pwd

import pytest

from tiny_transformers.common import refusals
from tiny_transformers.common.files import whole_file

ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def barred(monkeypatch):
    """Let a path's mode of its owner count, for root, too; `others` are those whose owner is another."""

    def bar(path, mode):
        os.chmod(path, mode)
        real = os.access
        allowed = {os.R_OK: mode & 0o400, os.W_OK: mode & 0o200, os.X_OK: mode & 0o100}
        monkeypatch.setattr(
            os, "access",
            lambda each, asked: all(has for bit, has in allowed.items() if asked & bit)
            if str(each) == str(path) else real(each, asked),
        )  # fmt: skip

    return bar


def told(path, number=errno.EACCES):
    return refusals.explain(OSError(number, os.strerror(number), str(path)))


def test_a_file_that_may_not_be_read_is_told_with_its_mode_and_the_command_that_lets_one(tmp_path, barred):
    path = tmp_path / "train.jsonl"
    path.touch()
    barred(path, 0o200)
    assert told(path) == f"{path}: cannot be read: it is yours, --w-------. `chmod u+r {path}` lets you."


def test_of_a_file_in_a_folder_that_is_shut_the_folder_is_named(tmp_path, barred):
    folder = tmp_path / "tinystories"
    (folder / "within").mkdir(parents=True)
    barred(folder, 0o600)
    path = folder / "within" / "train.jsonl"
    why = f"it is yours, drw-------. `chmod u+rX {folder}` lets you."
    assert told(path) == f"{path}: cannot be reached: the folder {folder} may not be entered: {why}"
    assert told(folder) == f"{folder}: cannot be read: {why}"


def test_what_cannot_be_written_names_the_folder_and_another_owner_is_the_one_to_ask(tmp_path, barred, monkeypatch):
    barred(tmp_path, 0o500)
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    path = tmp_path / ".index.html.7rispb6k"
    whose = f"it is {ME}'s, dr-x------. Ask {ME}, or take one of your own."
    assert told(path) == f"{path}: cannot be written: the folder {tmp_path} may not be: {whose}"
    assert told(tmp_path) == f"{tmp_path}: cannot be written: {whose}"


def test_an_owner_without_a_name_is_a_number(tmp_path, barred, monkeypatch):
    barred(tmp_path, 0o500)
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: {}["nobody"])
    assert f"it is user {tmp_path.stat().st_uid}'s" in told(tmp_path)


def test_a_disk_without_room_is_told_as_that_and_a_file_that_was_being_written_is_named(tmp_path):
    assert told(tmp_path, errno.EROFS) == f"{tmp_path}: cannot be written: its disk is mounted to be read only."
    kept = "Make room, and do it again: what was done is kept."
    nameless = OSError(errno.EDQUOT, "Disk quota exceeded")
    assert refusals.explain(nameless) == f"Something cannot be written: the quota of this disk is used up. {kept}"
    with pytest.raises(OSError, match="scores") as error, whole_file(tmp_path / "scores.npz"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert refusals.explain(error.value) == f"{tmp_path / 'scores.npz'}: cannot be written: the disk is full. {kept}"


def test_what_modes_do_not_tell_and_what_is_no_refusal_stay_in_the_systems_words(tmp_path):
    assert told(tmp_path) == f"PermissionError: [Errno 13] Permission denied: '{tmp_path}'"
    assert told(tmp_path, errno.ESTALE).startswith("OSError: [Errno ")
    assert refusals.explain(ValueError("no")) == "ValueError: no"
