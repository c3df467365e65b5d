"""What a job wrote is shown, but a terminal does not obey it."""

import unicodedata

COMMANDS = (("status",), ("status", "--failed"), ("status", "--runs"), ("status", "--json"), ("usage",), ("report",),
            ("tick",), ("ledger", "rebuild"), ("status", "--failed"))  # fmt: skip


def obeyed(text):
    """What a terminal obeys; the page has spaces of other widths, which it shows."""
    controls = {letter for letter in text if unicodedata.category(letter) == "Cc"} - {"\n", "\t"}
    return controls | {letter for letter in text if letter == "\u202e"}


def test_control_characters_of_a_jobs_log_and_errors_reach_no_terminal_and_no_report(command, fake_science, tmp_path):
    fake_science.write_text('{"*": {"pretrain": "noise"}}')
    command("submit", "experiments.yaml", "--site", "site.yaml", "--study", "second", "--yes", "--wait", check=False)
    folder = next((tmp_path / "output/runs").iterdir())
    log = folder / "stages/pretrain/1/log.txt"
    assert b"\x1b]0;title\x07" in log.read_bytes(), "the log is as the job wrote it"
    shown = {words: command(*words, check=False) for words in (("logs", folder.name), *COMMANDS)}
    said = {words: done.stdout + done.stderr for words, done in shown.items()}
    assert [words for words, text in said.items() if obeyed(text)] == []
    assert "\n30 %\nbell and  tab\tend\n" in said["logs", folder.name]
    assert "RuntimeError: an  word" in said["status", "--failed"]
    written = [path for path in (tmp_path / "output/report").rglob("*") if path.suffix in (".md", ".csv", ".html")]
    assert len(written) > 2
    assert [path for path in written if obeyed(path.read_bytes().decode())] == []
