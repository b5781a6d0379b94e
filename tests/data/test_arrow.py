import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from robustctl import data
from robustctl.data.arrow import is_saved
from robustctl.data.columns import Columns, Reading
from robustctl.errors import RequestError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
LABELS = [1, 0, 2, 1, 0, 2]


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def save(place: Path, rows: range = range(6), files: int = 2) -> None:
    """What ``save_to_disk`` writes: files in arrow's stream format, and a state that names them."""
    place.mkdir(parents=True, exist_ok=True)
    images = pa.array([{"bytes": _png(PIXELS[i]), "path": None} for i in rows])
    table = pa.table({"img": images, "label": [LABELS[i] for i in rows]})
    features = {"label": {"names": ["ant", "bee", "cat"], "_type": "ClassLabel"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    names = [f"data-{i:05}-of-{files:05}.arrow" for i in range(files)]
    step = -(-len(rows) // files)
    for i, name in enumerate(names):
        with pa.OSFile(str(place / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table[i * step : (i + 1) * step])
    (place / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))


def test_a_saved_split_is_read_whole_and_in_order(tmp_path: Path) -> None:
    save(tmp_path)
    assert is_saved(tmp_path)
    images = data.load(str(tmp_path), "test", 5)
    assert torch.equal(images.x, torch.from_numpy(PIXELS[:5]).permute(0, 3, 1, 2))
    assert (images.y.tolist(), images.class_names) == (LABELS[:5], ("ant", "bee", "cat"))


def test_saved_splits_are_folders(tmp_path: Path) -> None:
    save(tmp_path / "train", range(4))
    save(tmp_path / "test", range(4, 6), files=1)
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    assert data.load(str(tmp_path), "test").y.tolist() == LABELS[4:]
    with pytest.raises(RequestError, match="no split 'val'; its splits: test, train"):
        data.load(str(tmp_path), "val")


def test_training_reads_it_row_by_row(tmp_path: Path) -> None:
    save(tmp_path / "train")
    (tmp_path / "dataset_dict.json").write_text("{}")
    images = data.load_to_train(str(tmp_path), "train", any_size=False, limit=1)
    assert isinstance(images, data.EncodedData)
    assert torch.equal(images.decoded((3, 5, 5), None).x, torch.from_numpy(PIXELS).permute(0, 3, 1, 2))
    order = images.encoded.shuffled(torch.arange(6), torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(6))


def test_columns_can_be_chosen(tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(RequestError, match="no column 'kind'; its columns: img, label"):
        data.load(str(tmp_path), "test", reading=Reading(Columns(label="kind")))


@pytest.mark.parametrize("state", ["", "{}", '{"_data_files": [{"filename": "../x.arrow"}]}', "[" * 5000])
def test_a_damaged_state_is_one_message(tmp_path: Path, state: str) -> None:
    save(tmp_path)
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(RequestError, match=r"state\.json"):
        data.load(str(tmp_path), "test")


def test_a_missing_or_damaged_file_is_one_message(tmp_path: Path) -> None:
    save(tmp_path)
    path = tmp_path / "data-00001-of-00002.arrow"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RequestError, match="cannot read"):
        data.load(str(tmp_path), "test")
    path.unlink()
    with pytest.raises(RequestError, match="cannot read"):
        data.load(str(tmp_path), "test")
