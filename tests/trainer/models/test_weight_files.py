import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from windlass.errors import WindlassError
from windlass.models import weight_files
from windlass.models.weight_files import open_weights, shapes_in
from windlass.storage import Storage

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "b.weight": torch.ones(4, dtype=torch.bfloat16)}


def read(folder: Path) -> dict[str, torch.Tensor]:
    with open_weights(folder) as files:
        return {name: files.read(name).clone() for name in files.shapes}


def fails(folder: Path, reason: str, words: str) -> None:
    with pytest.raises(WindlassError, match=words) as caught:
        read(folder)
    assert caught.value.reason == reason


def shards(folder: Path, save: Any, ending: str) -> None:
    names = {name: f"model-{number}.{ending}" for number, name in enumerate(WEIGHTS)}
    for name, file in names.items():
        save({name: WEIGHTS[name]}, folder / file)
    index = "model.safetensors" if ending == "safetensors" else "pytorch_model.bin"
    (folder / f"{index}.index.json").write_text(json.dumps({"weight_map": names}))


def old_format(weights: dict[str, torch.Tensor], path: Path) -> None:
    torch.save(weights, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("name", "save"),
    [("model.safetensors", save_file), ("pytorch_model.bin", torch.save), ("pytorch_model.bin", old_format)],
    ids=["safetensors", "bin", "bin-before-1.6"],
)
def test_weights_are_read_in_one_file(name: str, save: Any, tmp_path: Path) -> None:
    save(WEIGHTS, tmp_path / name)
    with open_weights(tmp_path) as files:
        assert files.shapes == {"a.weight": (2, 3), "b.weight": (4,)}
        assert all(torch.equal(files.read(name), weight) for name, weight in WEIGHTS.items())


@pytest.mark.parametrize(("save", "ending"), [(save_file, "safetensors"), (torch.save, "bin")])
def test_weights_are_read_in_shards(save: Any, ending: str, tmp_path: Path) -> None:
    shards(tmp_path, save, ending)
    found = read(tmp_path)
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], weight) for name, weight in WEIGHTS.items())


def test_what_a_bin_file_would_run_is_not_run(tmp_path: Path) -> None:
    class Program:
        def __reduce__(self) -> Any:
            return (tmp_path / "ran").touch, ()

    torch.save({"a": Program()}, tmp_path / "pytorch_model.bin")
    fails(tmp_path, "DataCorrupt", r"pytorch_model\.bin holds something else than tensors")
    assert not (tmp_path / "ran").exists()


def test_a_damaged_file_a_missing_shard_and_a_shard_elsewhere_are_named(tmp_path: Path) -> None:
    shards(tmp_path, save_file, "safetensors")
    (tmp_path / "model-1.safetensors").write_bytes(b"\x00" * 20)
    fails(tmp_path, "DataCorrupt", r"model-1\.safetensors is damaged")
    (tmp_path / "model-1.safetensors").unlink()
    fails(tmp_path, "DataNotFound", r"model-1\.safetensors is not there, and the index names it")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    fails(tmp_path, "DataCorrupt", "which is no file beside it")
    index.write_text("[]")
    fails(tmp_path, "DataCorrupt", "is no index of weights")
    index.unlink()
    fails(tmp_path, "DataNotFound", "model.safetensors is not there; weights are read from it, its shards, or pytorch")


def test_a_model_is_loaded_with_one_tensor_of_its_files_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from windlass.data.tokenizers import load_tokenizer
    from windlass.models.decoder import Decoder
    from windlass.models.huggingface import export_model, load_model
    from windlass.spec.presets import PRESETS

    small = {"layers": 2, "hidden_size": 32, "intermediate_size": 48}
    export_model(
        Decoder(PRESETS["llama-tiny"].config.model_copy(update=small)), load_tokenizer("bytes"), tmp_path / "export"
    )
    alive: list[Any] = []
    most = 0

    class Watched:
        """Counts tensors of the file that are still held when the next one is read."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.file: Any = safe_open(*arguments, **options)

        def __enter__(self) -> Any:
            self.file.__enter__()
            return self

        def __exit__(self, *error: Any) -> None:
            self.file.__exit__(*error)

        def keys(self) -> Any:
            return self.file.keys()

        def get_slice(self, name: str) -> Any:
            return self.file.get_slice(name)

        def get_tensor(self, name: str) -> torch.Tensor:
            nonlocal most
            tensor: torch.Tensor = self.file.get_tensor(name)
            alive.append(weakref.ref(tensor))
            most = max(most, sum(held() is not None for held in alive))
            return tensor

    monkeypatch.setattr(weight_files, "safe_open", Watched)
    load_model(tmp_path / "export")
    assert len(alive) > 10
    assert most == 1


def test_shapes_are_in_a_header_wherever_the_file_is(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert shapes_in(Storage(str(tmp_path)), "model.safetensors") == {"a.weight": (2, 3), "b.weight": (4,)}
    (tmp_path / "model.safetensors").write_bytes(b"<html>no such file</html>")
    with pytest.raises(WindlassError, match=r"model\.safetensors is damaged: .*; copy it again"):
        shapes_in(Storage(str(tmp_path)), "model.safetensors")
