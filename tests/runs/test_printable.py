"""Text of strangers: on one line, without what gives access, and never endless."""

import sys
from pathlib import Path

import pytest

from runs.environment import command_line
from runs.errors import UserError
from runs.folder import claimed_run
from runs.printable import printable, without_credentials
from runs.record import Subject

SIGNED = "https://me:secret@host.org:80/a/b c.pth".replace(" ", "%20") + "?X-Signature=secret&b=1:2#secret"
PLAIN = "https://host.org:80/a/b%20c.pth"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (SIGNED, PLAIN),
        (f"init={SIGNED}: no file; see {SIGNED}, or {SIGNED}.", f"init={PLAIN}: no file; see {PLAIN}, or {PLAIN}."),
        ("hf://owner/net/a.pth@main?token=secret", "hf://owner/net/a.pth@main"),
        (str(Path("https://me@host/a.pth?secret")), "https:/host/a.pth"),
        ("S3://key:secret@bucket/a.pth", "S3://bucket/a.pth"),
        ("what? data.root=/a/b@c#d: no folder", "what? data.root=/a/b@c#d: no folder"),
    ],
)
def test_addresses_lose_what_gives_access(text: str, shown: str) -> None:
    assert without_credentials(text) == shown
    assert str(UserError(text)) == shown


def test_a_run_keeps_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrain", f"init={SIGNED}", "lr=1"])
    assert command_line().endswith(f"init={PLAIN} lr=1")
    for token in ("secret", "another"):
        with claimed_run("knn", tmp_path / "run", {"seed": 0, "init": SIGNED.replace("secret", token)}) as run:
            if not run.done:
                run.finish(Subject("simsiam", "resnet50"), None, {"top1": 1.0})
    assert PLAIN in (tmp_path / "run" / "config.yaml").read_text()
    assert not [path for path in (tmp_path / "run").iterdir() if "secret" in path.read_text()]


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    message = str(UserError(f"a.yaml: lr is {'9' * 30_000}; give a number"))
    assert len(message) < 2100 and message.startswith("a.yaml: lr is 9") and message.endswith("9; give a number")
    assert printable("x" * 2000) == "x" * 2000
