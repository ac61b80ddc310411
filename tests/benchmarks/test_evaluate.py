"""A checkpoint's row: what is planned for it, what its card says, what is refused."""

import contextlib
import functools
import http.server
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.converters_command import inspect_checkpoint
from benchmarks.evaluate import folder_name, tables_of_tasks
from benchmarks.model_card import write_model_card
from benchmarks.results.table_results import table_results
from benchmarks.tables import scale as scales
from benchmarks.workflow.expand_tables import expand
from benchmarks.workflow.plan import Plan, Source
from benchmarks.workflow.run_status import Status
from converters.resnet_model import build_resnet
from runs.files import sha256
from runs.record import Record, Subject, write_record
from tests.converters.layouts import trained

FACTS = {
    "file": "x.pth", "sha256": "ab" * 32, "format": "torchvision", "arch": "resnet50", "parameters": 23_508_032,
    "caveat": "",
    "input": {"format": "RGB", "pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375],
              "stride_in_1x1": False},
    "checks": [{"name": "tensors", "passed": True, "figure": "265"}],
    "targets": {"torchvision": {"possible": True, "reason": ""}, "detectron2": {"possible": False, "reason": "a stem"}},
}  # fmt: skip


def test_plan_and_card(make: SimpleNamespace, tmp_path: Path) -> None:
    file = tmp_path / "my net.v2.pth"
    chosen, source = tables_of_tasks(["linear", "knn", "voc07", "coco"]), Source("my", str(file), (), FACTS["sha256"])
    plan = expand(chosen, scales.load("mini"), tmp_path / "out", checkpoint=source)
    assert sorted(r.task for r in plan.runs.values()) == ["coco", "convert", "data", "knn", "linear", *3 * ["voc07"]]
    linear = next(r for r in plan.runs.values() if r.kind == "linear")
    assert f"checkpoint='{file}'" in linear.command and not any(w.startswith("arch=") for w in linear.command)
    records = {linear.id: make.record("linear", "my", 61.25)}
    card = write_model_card(plan, table_results(plan, records, Status()), FACTS | {"file": str(file)})
    text = card.read_text()
    assert "| my net.v2.pth | **61.2 (n = 1)** |" in text and "| SimSiam (paper) | 70.0 | – |" in text
    assert "Verified: tensors: 265" in text and "mean 123.675, 116.28, 103.53" in text
    body = json.loads(card.with_suffix(".json").read_text())
    assert body["schema"] == 1 and body["results"] == [
        {"task": "linear", "metric": "top1", "column": "linear top-1 200 ep", "n": 1, "mean": 61.25, "std": None}
    ]


def evaluated(make: SimpleNamespace, plan: Plan, kind: str, value: float) -> Record:
    """What `evaluate`'s run would write."""
    return make.record(kind, "net", value, subject=Subject("net", "resnet50", None, "x", plan.checkpoint.sha256))


def test_names_of_folders() -> None:
    assert [folder_name(Path(p)) for p in ("a/b.pth.tar", "my net (2).pth", ".pth")] == ["b", "my-net-2", "checkpoint"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [(["nowhere.pth"], "nowhere.pth"), (["x.pth", "--tasks", "linear,dance"], "--tasks dance: choose from linear"),
     (["x.pth", "--set", "nonsense"], "must be STAGE.KEY=VALUE"), (["x.pth", "--set", "knn.k=[5]"], "x.pth"),
     (["x.pth", "--data", "imagenet=photographs"], "the mini scale makes its own data; add --scale small"),
     (["x.pth", "--scale", "small", "--data", "imagnet=photographs"], "no table reads 'imagnet'; there are detection"),
     (["x.pth", "--scale", "small", "--data", "photographs"], "must be NAME=DIR"),
     (["x.pth", "--scale", "small", "--data", "imagenet=nowhere"], "imagenet=nowhere: no such folder"),
     (["http://example.org/x.pth"], "not an https address"), (["zoo:nothing"], "zoo:nothing: no such checkpoint"),
     (["x.pth", "--push", "net"], "--push net: not a name of the Hub, OWNER/NAME")],
)  # fmt: skip
def test_bad_input_is_one_line(words: list[str], complaint: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *words])
    text = capfd.readouterr().err
    assert stop.value.code == 2 and complaint in text and len(text.strip().splitlines()) == 1, text


def a_checkpoint() -> dict[str, torch.Tensor]:
    """A quarter-width network whose statistics are its own, as the converters demand."""
    return trained("resnet50x0.25").state_dict()


class Cut(http.server.SimpleHTTPRequestHandler):
    """Promises a file `…cut….pth` whole and sends the first kilobytes of it."""

    def copyfile(self, source: IO[bytes], outputfile: IO[bytes]) -> None:  # type: ignore[override]
        if "cut" in self.path:
            outputfile.write(source.read(5000))
        else:
            super().copyfile(source, outputfile)


@contextlib.contextmanager
def served(folder: Path, certificate: Path | None = None) -> Iterator[str]:
    """A web server of this machine; plain http is refused everywhere else. `certificate`: a file with its key."""
    handler = functools.partial(Cut, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_an_address_is_fetched_proved_and_refused_for_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    site = tmp_path / "site"
    (site / "a").mkdir(parents=True)
    (site / "b").mkdir()
    whole = a_checkpoint()
    torch.save(whole, site / "a" / "net.pth")
    # The same name elsewhere is another file.
    torch.save({k: v for k, v in whole.items() if not k.startswith("layer3.2.bn2.")}, site / "b" / "net.pth")
    with served(site) as address:
        facts = inspect_checkpoint(f"{address}/a/net.pth")
        file = Path(facts["file"])
        assert (file.name, facts["arch"], facts["tensors"]) == ("net.pth", "resnet50x0.25", 265)
        assert file.is_relative_to(tmp_path / "cache") and facts["sha256"] == sha256(site / "a" / "net.pth")
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(["evaluate", f"{address}/b/net.pth", "--output", str(tmp_path / "out")])
    lines = [line for line in capfd.readouterr().err.splitlines() if "error: " in line]
    assert stop.value.code == 2 and len(lines) == 1 and "layer3.2.bn2" in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_untrained_network_is_refused_in_the_converters_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save(build_resnet("resnet50x0.25", num_classes=10).state_dict(), tmp_path / "net.pth")
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(tmp_path / "net.pth"), "--output", str(tmp_path / "out")])
    assert stop.value.code == 2 and "initial mean 0" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_https_address_becomes_a_row_and_a_card(
    make: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """From a server whose authority is named in SSL_CERT_FILE; the runs themselves are stand-ins."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")

    def work(plan: Plan) -> Status:
        for run in plan.runs.values():
            if run.kind in ("linear", "knn"):
                write_record(plan.folder(run.id), evaluated(make, plan, run.kind, 61.25))
        return Status()

    def evaluate(name: str) -> tuple[int, str, list[str]]:
        words = [f"{address}/{name}", "--tasks", "linear,knn", "--output", str(tmp_path / "out")]
        with pytest.raises(SystemExit) as stop:
            main(["evaluate", *words])
        text = capfd.readouterr()
        errors = [line for line in text.err.splitlines() if line.startswith("error: ")]
        return int(stop.value.code or 0), text.out, errors

    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate := tmp_path / "server.pem"))
    monkeypatch.setattr("benchmarks.evaluate.run_plan", work)
    request = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        [*request.split(), "-keyout", certificate, "-out", tmp_path / "c.pem"], check=True, capture_output=True
    )
    certificate.write_bytes(certificate.read_bytes() + (tmp_path / "c.pem").read_bytes())
    (site := tmp_path / "site").mkdir()
    torch.save(a_checkpoint(), site / "net.pth")
    shutil.copy(site / "net.pth", site / "cut.pth")
    with served(site, certificate) as address:
        for name, complaint in (("absent.pth", "answers 404 File not found; check the address"),
                                ("cut.pth", "the download broke")):  # fmt: skip
            status, _, errors = evaluate(name)
            assert status == 2 and len(errors) == 1 and complaint in errors[0]
            assert not (tmp_path / "out").exists()
        status, row, errors = evaluate("net.pth")
    assert status == 0 and not errors and row.count("61.2") == 2
    card = (tmp_path / "out" / "model_card.md").read_text()
    assert "| net.pth | **61.2 (n = 1)** | **61.2 (n = 1)** |" in card and sha256(site / "net.pth") in card
    assert f"- Fetched from: {address}/net.pth" in card and "untrained" not in card
    # From the cache, without a server.
    assert evaluate("net.pth")[0] == 0
