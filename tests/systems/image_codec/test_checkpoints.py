"""Reading of checkpoint files: archives of torch and safetensors, damaged files, and files that would run code."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

sys.path.insert(0, str(Path(__file__).parent))
from checkpoint_maker import assert_same, checkpoint, from_training, pickled

from latens.errors import LimitExceeded, UnreadableInput
from latens.systems.image_codec.convert import convert_compressai, parse_checkpoint


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_reads_files_of_torch(zipped: bool) -> None:
    blob = pickled(from_training(checkpoint()), _use_new_zipfile_serialization=zipped)

    _, weights = convert_compressai(parse_checkpoint(blob, safetensors=False))

    assert_same(weights, convert_compressai(checkpoint())[1])


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("hacked",)


@pytest.mark.parametrize("zipped", [True, False])
def test_runs_no_code(zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blob = pickled({"state_dict": Malicious()}, _use_new_zipfile_serialization=zipped)

    with pytest.raises(UnreadableInput, match="not a checkpoint"):
        parse_checkpoint(blob, safetensors=False)

    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("safetensors", [True, False])
@pytest.mark.parametrize("blob", [b"", b"PK\x03\x04", b"hello\n", b"\x80\x02", b"\x80\x02l\n.", bytes(30)])
def test_other_bytes_are_refused(blob: bytes, safetensors: bool) -> None:
    with pytest.raises(UnreadableInput):
        parse_checkpoint(blob, safetensors=safetensors)


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_truncated_checkpoints_are_refused(kind: str) -> None:
    held = {"w": torch.arange(50.0)}
    plain = kind == "safetensors"
    blob = save(held) if plain else pickled(held, _use_new_zipfile_serialization=kind == "zip")

    for length in range(0, len(blob), 37):
        with pytest.raises(UnreadableInput):
            parse_checkpoint(blob[:length], safetensors=plain)


def test_content_without_names_is_refused() -> None:
    with pytest.raises(UnreadableInput, match="no named tensors"):
        parse_checkpoint(pickled([torch.ones(2)]), safetensors=False)


def test_archives_that_unpack_to_too_many_bytes_are_refused() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(1000))
    blob = bytearray(stream.getvalue())
    entry = blob.index(b"PK\x01\x02")
    blob[entry + 24 : entry + 28] = (1 << 31).to_bytes(4, "little")  # the unpacked size in the central directory

    with pytest.raises(LimitExceeded, match="unpacks to"):
        parse_checkpoint(bytes(blob), safetensors=False)
