"""`latens serve`: requests answer as the command line does; options that name files of the service are refused."""

from __future__ import annotations

import inspect
import io
import json
import shutil
import struct
import sys
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from PIL import Image
from tests.conftest import image
from tests.serve.conftest import Running

import latens
from latens.catalogue import MODELS
from latens.cli import as_request, request_worker
from latens.cli.as_request import OPTIONS, endpoint, served_models
from latens.cli.main import main
from latens.errors import InputError, ModelMissing, UsageError

needs_packages = pytest.mark.skipif(
    find_spec("fastapi") is None or find_spec("prometheus_client") is None, reason="pip install 'latens[serve]'"
)
REFUSED = {  # options that name files, choose what the operator chooses, or make no sense for one image
    *("inputs", "out", "model", "tune", "watching", "force", "engine", "options"),  # the model is checked by its name
    *("save_maps", "save_depth", "depth", "depth_format", "camera", "depth_channel", "refine_depth", "lots"),
    *("raw", "teach", "names", "clusters", "sure", "find", "export", "sample", "certify", "seed", "temperature"),
}


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG whose header promises a size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def image_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image(64, 96)).save(buffer, "PNG")
    return buffer.getvalue()


class Piped:
    """Standard streams of a command that reads and writes pipes."""

    def __init__(self, data: bytes) -> None:
        self.stdin, self.stdout = io.TextIOWrapper(io.BytesIO(data)), io.TextIOWrapper(io.BytesIO())

    def run(self, words: list[str], monkeypatch: pytest.MonkeyPatch) -> bytes:
        monkeypatch.setattr(sys, "stdin", self.stdin)
        monkeypatch.setattr(sys, "stdout", self.stdout)
        assert main(words) == 0
        monkeypatch.undo()
        found: bytes = self.stdout.buffer.getvalue()
        return found


@pytest.mark.parametrize("verb", OPTIONS)
def test_every_option_of_a_verb_is_served_or_refused(verb: str) -> None:
    """A new option of a verb has to be put into one of the two lists."""
    names = set(inspect.signature(as_request._function(verb)).parameters)
    assert names <= {*OPTIONS[verb], *REFUSED}
    assert set(OPTIONS[verb]) <= {*names, "channel"}
    paths = {name for name, hint in get_type_hints(as_request._function(verb)).items() if "Path" in str(hint)}
    assert paths & set(OPTIONS[verb]) == set()
    assert {option.name for option in endpoint(verb, {"m": "m"}, []).options} == {
        *(name.replace("_", "-") for name in OPTIONS[verb]),
        "model",
    }


def test_queries_become_command_lines() -> None:
    found = endpoint("haze", {"haze": "haze"}, ["--threads", "1"])
    words = found.words([("visibility", "80"), ("airlight", "1,0.9,0.8"), ("strip", ""), ("max-depth", "60")])
    assert words[:5] == ["haze", "./-", "-o", "./-", "--format"]
    assert words[6:] == [
        *("--threads", "1", "--visibility=80", "--airlight", "1", "0.9", "0.8", "--strip", "--max-depth=60", "--model=haze")
    ]
    assert "--strip" not in found.words([("strip", "false")])
    kinds = {option.name: option.kind for option in found.options}
    assert (kinds["visibility"], kinds["strip"], kinds["method"]) == ("number", "boolean", "string")
    assert next(option for option in found.options if option.name == "to").choices[0] == "png"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("visibility", "far", "visibility"),
        ("visibility", "-1", "Must be > 0"),
        ("visibility", "", "no value"),
        ("strip", "perhaps", "not true or false"),
        ("depth", "/etc/passwd", "no option depth"),
        ("model", "/models/mine", "not served"),
        ("limit", "pixels=1e9", "no option limit"),
        ("name", "a\0b", "no value"),
        ("airlight", "1,0.9,0.8,--limit=pixels=1e15", "not three numbers"),
        ("airlight", "1,0.9,0.8,--save-maps=maps", "not three numbers"),
        ("airlight", "--help", "not three numbers"),
        ("airlight", "1,0.9", "airlight"),
    ],
)
def test_wrong_queries_are_usage_errors(name: str, value: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        endpoint("haze", {"haze": "haze"}, []).words([(name, value)])
    with pytest.raises(UsageError, match="whole number"):
        endpoint("density", {"flow": "flow"}, []).words([("draws", "1.5")])
    with pytest.raises(UsageError, match="twice"):
        endpoint("haze", {"haze": "haze"}, []).words([("beta", "0.1"), ("beta", "0.1")])


@pytest.mark.parametrize("damaged", [False, True])
def test_scores_of_a_batch_are_those_of_single_requests(damaged: bool, tmp_path: Path) -> None:
    """Up to the last digit: sums of a network may have another order in a batch."""
    words = endpoint("density", {"flow": "flow"}, ["--device", "cpu"]).words([("draws", "1")])
    found: list[tuple[list[str], list[str], list[float]]] = []
    for name, sides in (("batch", (40, 64)), ("alone", (40, 64))):
        tasks: list[dict[str, Any]] = []
        for side in sides:
            folder = tmp_path / name / str(side)
            folder.mkdir(parents=True)
            Image.fromarray(image(side, side)).save(folder / "body", "PNG")
            tasks.append({"words": words, "folder": str(folder)})
        if damaged:
            (folder / "body").write_bytes(b"no image")
        answers = request_worker.answers(tasks) if name == "batch" else [request_worker.answer(task) for task in tasks]
        tables = [(Path(task["folder"]) / "result").read_text() for task in tasks]
        scores = [float(table.splitlines()[1].split(",")[1]) for table in tables if table]
        found.append(([each.get("error") or each["status"] for each in answers], [table[:40] for table in tables], scores))
    (statuses, names, scores), alone = found
    assert (statuses, names) == alone[:2]
    assert statuses == (["done", "UnreadableInput"] if damaged else ["done", "done"])
    assert scores == pytest.approx(alone[2], abs=2e-5)
    assert (request_worker.scored_together(tasks) is None) == damaged


def test_a_record_that_is_too_long_for_a_header_keeps_its_notes() -> None:
    rows = [{"parts": [0.123] * 2000, "share": [0.5] * 2000, "seconds": 1.5, "notes": ["frame 1 of 2 taken"]}]
    found = json.loads(request_worker._header(rows, ["latens: stdin: frame 1 of 2 taken"]))
    kept = {"seconds": 1.5, "notes": ["frame 1 of 2 taken"], "warnings": ["stdin: frame 1 of 2 taken"]}
    assert found == {**kept, "omitted": ["parts", "share"]}
    pages = [{"objects": [1], "notes": [f"page {number}: no cells" for number in range(500)]}]
    found = json.loads(request_worker._header(pages, ["latens: stdin: page 1: no cells"]))
    assert found == {"objects": [1], "warnings": ["stdin: page 1: no cells"], "omitted": ["notes"]}


def test_models_by_system_name_and_unknown_ones() -> None:
    found = served_models(["image_codec", "amodal", "haze", "cells"])
    codecs = ["image_codec_joint", "image_codec_perceptual", "image_codec_context", "image_codec"]
    assert [each.model for each in found] == [*codecs, "cells", "embryo", "haze"]
    assert found[0].verbs == ("compress", "decompress")
    with pytest.raises(ModelMissing, match="nowhere"):
        served_models(["nowhere"])
    with pytest.raises(UsageError, match="video_codec are not served"):
        served_models(["video_codec"])


def test_a_folder_is_found_by_workers_that_run_in_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(MODELS["cells"].folder, tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    found = served_models(["cells", "runs/mine"])
    monkeypatch.chdir("/")
    segment = as_request.endpoints(found, [])[0]
    assert next(option for option in segment.options if option.name == "model").choices == ("cells", "runs/mine")
    assert segment.words([])[-1] == "--model=cells"
    assert segment.words([("model", "runs/mine")])[-1] == f"--model={tmp_path}/runs/mine"
    assert latens.load(found[1].place, device="cpu").model_id == MODELS["cells"].sha256


@needs_packages
@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["--host", "0.0.0.0"], 2, "there is no token"),
        (["--host", "192.0.2.1", "--insecure", "--models", "cells"], 2, "cannot listen"),
        (["--token-file", "short.txt"], 3, "at least 16"),
        (["--token-file", "zeros.txt"], 3, "at least 16"),
        (["--token-file", "missing.txt"], 3, "no such file"),
        (["--models", "unknown"], 6, "unknown"),
        (["--deadline", "0s"], 2, "longer than 0 s"),
        (["--limit", "file_bytes=none"], 2, "file_bytes"),
    ],
)
def test_services_that_cannot_start(
    words: list[str],
    status: int,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.txt").write_text("secret\n")
    Path("zeros.txt").write_bytes(bytes(40))
    assert main(["serve", *words]) == status
    assert sentence in capsys.readouterr().err


@needs_packages
@pytest.mark.parametrize(
    "settings",
    [{"workers": 0}, {"queue": -1}, {"batch": 0}, {"threads": 0}, {"deadline": float("nan")}, {"token": ""}, {"workers": "2"},
     {"deadline": "60s"}],
)  # fmt: skip
def test_applications_that_cannot_be_made(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError if "token" in settings else UsageError, match=next(iter(settings))):
        latens.service(["cells"], **settings)


# ------------------------------------------------------------------------------------------------------- a real service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = ["--models", "image_codec_joint,cells", "--device", "cpu"]
    words = ["serve", *models, "--workers", "1", "--port", "0", "--format", "json", "--limit", "file_bytes=1e6"]
    folder = tmp_path_factory.mktemp("serve") / "real"
    port = lambda line: int(json.loads(line)["address"].rpartition(":")[2])  # noqa: E731
    found = Running([sys.executable, "-m", "latens", *words], folder, port)
    yield found
    assert found.stop() == 0
    assert "Traceback" not in found.stderr.read_text()
    assert list(found.temporary.glob("latens*")) == []


@needs_packages
@pytest.mark.xdist_group("service")
def test_requests_answer_as_the_command_line(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    data = image_bytes()
    packed = service.ask("/v1/compress?quality=3&name=photo.png", data)
    assert packed.status == 200
    words = ["compress", "-", "-o", "-", "--quality", "3", "--device", "cpu", "--threads", "1"]
    assert packed.body == Piped(data).run(words, monkeypatch)
    record = json.loads(packed.headers["latens-result"])
    assert record["bytes"] == len(packed.body)
    assert packed.headers["latens-status"] == "done"
    opened = service.ask("/v1/decompress?to=webp", packed.body)
    assert opened.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(opened.body)).size == (96, 64)
    damaged = packed.body[:-20]
    lost = service.ask("/v1/decompress", damaged)
    assert (lost.status, lost.error) == (422, "Truncated")
    found = service.ask("/v1/segment?emit=labels&name=slide", data)
    assert found.headers["content-type"] == "image/tiff"
    labels = np.array(Image.open(io.BytesIO(found.body)))
    assert labels.shape == (64, 96)
    assert json.loads(service.ask("/v1/segment", data).body)["images"]


@needs_packages
@pytest.mark.xdist_group("service")
def test_a_refinement_of_seconds(service: Running) -> None:
    """The bytes of its number of steps; a time without a step gives the plain file and a warning."""
    data = image_bytes()
    packed = service.ask("/v1/compress?refine=0.5s", data)
    record = json.loads(packed.headers["latens-result"])
    assert service.ask(f"/v1/compress?refine={record['refine_steps']}", data).body == packed.body
    short = service.ask("/v1/compress?refine=0.0001s", data)
    assert short.body == service.ask("/v1/compress", data).body
    record = json.loads(short.headers["latens-result"])
    assert record["refine_steps"] == 0
    assert any("not refined" in warning for warning in record["warnings"])


@needs_packages
@pytest.mark.xdist_group("service")
@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/v1/compress?quality=1&bpp=1", image_bytes(), 400, "UsageError"),
        ("/v1/segment?emit=gallery", image_bytes(), 400, "UsageError"),
        ("/v1/segment?model=embryo", image_bytes(), 400, "UsageError"),
        ("/v1/compress?refine=20x", image_bytes(), 400, "UsageError"),
        ("/v1/compress?refine=0s", image_bytes(), 400, "UsageError"),
        ("/v1/compress", png(20_000, 20_000), 413, "LimitExceeded"),
        ("/v1/segment", png(60_000, 1_000), 413, "LimitExceeded"),
        ("/v1/compress", b"a text", 422, "UnreadableInput"),
        ("/v1/compress", b"", 422, "UnreadableInput"),
        ("/v1/decompress", image_bytes(), 422, "NotOurFile"),
        ("/v1/compress", b"\0" * 1_000_001, 413, "LimitExceeded"),
    ],
)
def test_bad_bodies_are_answers(path: str, body: bytes, status: int, error: str, service: Running) -> None:
    reply = service.ask(path, body)
    assert (reply.status, reply.error) == (status, error)
    assert "/tmp" not in reply.body.decode()
    assert service.state()[1] == []


@needs_packages
@pytest.mark.xdist_group("service")
def test_the_form_and_its_description_need_no_other_host(service: Running) -> None:
    described: dict[str, Any] = json.loads(service.get("/openapi.json").body)
    options = {each["name"]: each["schema"] for each in described["paths"]["/v1/compress"]["post"]["parameters"]}
    assert options["quality"] == {"type": "number"}
    assert options["refine"] == {"type": "string"}
    assert options["model"]["enum"] == ["image_codec_joint"]
    assert {"200", "413", "503"} <= described["paths"]["/v1/segment"]["post"]["responses"].keys()
    page = service.get("/")
    assert "default-src 'none'; script-src 'self'" in page.headers["content-security-policy"]
    for path in ("/", "/page.js", "/page.css"):
        assert b"://" not in service.get(path).body
