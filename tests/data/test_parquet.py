import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from robustctl import data
from robustctl.data import parquet
from robustctl.data.columns import Columns, Reading
from robustctl.data.parquet import RowGroups, find, is_parquet
from robustctl.errors import RequestError

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)
LABELS = np.arange(12) % 4


def read(folder: Path, split: str, n: int | None) -> tuple[torch.Tensor, torch.Tensor, int]:
    images = data.load(str(folder), split, n)
    return images.x, images.y, images.n_classes


def _rows(folder: Path) -> RowGroups:
    images = find(folder, "train").images
    assert isinstance(images, RowGroups)
    return images


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def _write(
    path: Path, rows: range, column: str = "img", labels: Any = None, names: int | None = 4, plain: bool = False
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = [_png(PIXELS[i]) for i in rows]
    images = encoded if plain else [{"bytes": value, "path": None} for value in encoded]
    table = pa.table({column: images, "label": LABELS[rows] if labels is None else labels})
    if names:
        features = {"label": {"names": [str(i) for i in range(names)], "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)


def _expected(rows: range) -> torch.Tensor:
    return torch.from_numpy(PIXELS[rows]).permute(0, 3, 1, 2)


@pytest.mark.parametrize("column", ["img", "image"])
@pytest.mark.parametrize("inner", ["", "plain_text"])
@pytest.mark.parametrize("plain", [False, True])
def test_images_and_labels_come_out_as_they_went_in(tmp_path: Path, column: str, inner: str, plain: bool) -> None:
    _write(tmp_path / inner / "test-00000-of-00001.parquet", range(12), column, plain=plain)
    x, y, n_classes = read(tmp_path, "test", None)
    assert torch.equal(x, _expected(range(12)))
    assert y.tolist() == LABELS.tolist()
    assert n_classes == 4


def test_shards_are_read_in_order_and_n_runs_across_them(tmp_path: Path) -> None:
    for shard in (2, 0, 1):
        _write(tmp_path / f"train-{shard:05}-of-00003.parquet", range(4 * shard, 4 * shard + 4))
    x, y, _ = read(tmp_path, "train", 7)
    assert torch.equal(x, _expected(range(7)))
    assert y.tolist() == LABELS[:7].tolist()


def test_a_missing_shard_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path / "train-00000-of-00002.parquet", range(4))
    with pytest.raises(RequestError, match="lacks shard 1 of split 'train'"):
        read(tmp_path, "train", 2)


@pytest.mark.parametrize("name", ["test.parquet", "test-00000-of-00001-0c0ffee0.parquet"])
def test_older_file_names_are_understood(tmp_path: Path, name: str) -> None:
    _write(tmp_path / name, range(3))
    assert len(read(tmp_path, "test", None)[1]) == 3


def test_classes_are_counted_by_their_names_even_if_some_do_not_occur(tmp_path: Path) -> None:
    _write(tmp_path / "test.parquet", range(3), names=10)
    assert read(tmp_path, "test", None)[2] == 10


def test_without_names_the_largest_label_of_all_rows_counts(tmp_path: Path) -> None:
    _write(tmp_path / "test.parquet", range(12), names=None)
    assert read(tmp_path, "test", 1)[2] == 4


def test_an_unknown_split_is_answered_with_the_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        _write(tmp_path / "c" / f"{split}-00000-of-00001.parquet", range(3))
    with pytest.raises(RequestError, match="no split 'tset'; its splits: test, train"):
        read(tmp_path, "tset", None)


def test_several_configurations_are_listed(tmp_path: Path) -> None:
    for config in ("fine", "coarse"):
        _write(tmp_path / config / "test.parquet", range(3))
    with pytest.raises(RequestError, match=r"name one of: .*coarse, .*fine"):
        read(tmp_path, "test", None)
    assert len(read(tmp_path / "fine", "test", None)[1]) == 3


def test_files_at_the_top_are_the_folders_own_whatever_lies_below(tmp_path: Path) -> None:
    _write(tmp_path / "test.parquet", range(3))
    _write(tmp_path / "other" / "test.parquet", range(5))
    _write(tmp_path / "other" / "extra.parquet", range(6))
    assert len(read(tmp_path, "test", None)[1]) == 3
    assert len(read(tmp_path, "extra", None)[1]) == 6


def test_more_images_than_there_are_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path / "test.parquet", range(3))
    with pytest.raises(RequestError, match=r"n is 4, but .* \(test\) has 3 images"):
        read(tmp_path, "test", 4)


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_outside_the_classes_is_named_with_its_row(tmp_path: Path, label: int) -> None:
    _write(tmp_path / "test.parquet", range(3), labels=[0, label, 1])
    with pytest.raises(RequestError, match=rf"row 1 has label {label}, outside the classes 0\.\.3"):
        read(tmp_path, "test", None)


@pytest.mark.parametrize("labels", [[0.0, 1.0, 2.0], [[1], [2], [3]], [0, None, 1], ["a", None, "b"]])
def test_labels_that_are_no_whole_numbers_are_refused(tmp_path: Path, labels: list[object]) -> None:
    _write(tmp_path / "test.parquet", range(3), labels=labels)
    with pytest.raises(RequestError, match="column label"):
        read(tmp_path, "test", None)


def test_missing_columns_are_answered_with_the_columns(tmp_path: Path) -> None:
    _write(tmp_path / "test.parquet", range(3), column="picture")
    with pytest.raises(RequestError, match=r"no column .* its columns: picture, label\. .*--columns image=NAME"):
        read(tmp_path, "test", None)


def test_a_damaged_image_is_named_with_file_and_row(tmp_path: Path) -> None:
    _write(tmp_path / "test-00000-of-00002.parquet", range(4))
    broken = pa.table({"img": [{"bytes": b"x", "path": None}], "label": [0]})
    pq.write_table(broken, tmp_path / "test-00001-of-00002.parquet")
    with pytest.raises(RequestError, match=r"row 0 of .*test-00001-of-00002\.parquet"):
        read(tmp_path, "test", None)


def test_an_absent_image_is_named_with_its_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"img": pa.array([None], pa.binary()), "label": [0]}), tmp_path / "test.parquet")
    with pytest.raises(RequestError, match="row 0 of"):
        read(tmp_path, "test", None)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "test.parquet").write_bytes(content)
    with pytest.raises(RequestError, match=r"cannot read .*test\.parquet"):
        read(tmp_path, "test", None)


def test_a_file_without_rows_has_no_images(tmp_path: Path) -> None:
    _write(tmp_path / "test.parquet", range(0), labels=np.array([], dtype=np.int64), plain=True)
    with pytest.raises(RequestError, match="no images"):
        read(tmp_path, "test", None)


def test_a_folder_of_class_folders_is_not_parquet(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    assert not is_parquet(tmp_path)


def test_reference_data_has_the_documented_sizes(shared: Path) -> None:
    x, y, n_classes = read(shared / "data" / "cifar10-jpeg", "test", None)
    assert (x.shape, y.shape, n_classes) == ((5000, 3, 32, 32), (5000,), 10)
    x, y, n_classes = read(shared / "data" / "mnist-part" / "mnist", "test", 1000)
    assert (x.shape, y.shape, n_classes) == ((1000, 1, 28, 28), (1000,), 10)


@pytest.mark.parametrize(
    "name",
    [
        "test.parquet",
        "data/test-00000-of-00001.parquet",
        "default/test/0000.parquet",
        "test/0000.parquet",
        "plain_text/test-00000-of-00001-0c0ffee0.parquet",
    ],
)
def test_the_hubs_ways_of_writing_are_read(tmp_path: Path, name: str) -> None:
    _write(tmp_path / name, range(3))
    _write(tmp_path / name.replace("test", "train"), range(5))
    assert len(read(tmp_path, "test", None)[1]) == 3 and len(read(tmp_path, "train", None)[1]) == 5
    with pytest.raises(RequestError, match="no split 'val'; its splits: test, train"):
        read(tmp_path, "val", None)


def test_numbered_files_of_a_split_are_its_shards_in_order(tmp_path: Path) -> None:
    for shard in (1, 0, 2):
        _write(tmp_path / "default" / "train" / f"{shard:04}.parquet", range(4 * shard, 4 * shard + 4))
    assert torch.equal(read(tmp_path, "train", None)[0], _expected(range(12)))


def test_a_single_file_is_its_own_split(tmp_path: Path) -> None:
    _write(tmp_path / "anything.parquet", range(3))
    images = data.load(str(tmp_path / "anything.parquet"), "test")
    assert (len(images), images.split) == (3, "all")


@pytest.mark.parametrize(
    "text", ['{"info": null}', "null", "[]", "{", '{"info": {"features": []}}', '{"info": {"features": {"label": 1}}}']
)
def test_metadata_without_names_of_classes_are_read_over(tmp_path: Path, text: str) -> None:
    table = pa.table({"img": [_png(PIXELS[i]) for i in range(3)], "label": [0, 2, 1]})
    pq.write_table(table.replace_schema_metadata({"huggingface": text}), tmp_path / "test.parquet")
    assert data.load(str(tmp_path), "test").n_classes == 3


def test_fine_labels_are_taken_and_the_coarse_ones_pointed_to(tmp_path: Path) -> None:
    table = pa.table({"img": [_png(PIXELS[0])] * 3, "fine_label": [0, 2, 1], "coarse_label": [1, 1, 0]})
    pq.write_table(table, tmp_path / "test.parquet")
    images = data.load(str(tmp_path), "test")
    assert images.y.tolist() == [0, 2, 1] and "--columns label=coarse_label" in images.notes[0]
    coarse = data.load(str(tmp_path), "test", reading=Reading(Columns(label="coarse_label")))
    assert coarse.y.tolist() == [1, 1, 0]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_texts_are_names_of_classes(tmp_path: Path, kind: pa.DataType) -> None:
    texts = pa.array(["dog", "ant", "dog"]).cast(kind)
    pq.write_table(pa.table({"img": [_png(PIXELS[0])] * 3, "label": texts}), tmp_path / "test.parquet")
    images = data.load(str(tmp_path), "test", 2)
    assert (images.y.tolist(), images.class_names, images.numbered) == ([1, 0], ("ant", "dog"), False)


def test_a_column_without_images_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [[1, 2]], "label": [0]}), tmp_path / "test.parquet")
    with pytest.raises(RequestError, match="column image holds list"):
        read(tmp_path, "test", None)


def test_of_a_row_group_only_the_rows_that_are_asked_for_are_kept(tmp_path: Path) -> None:
    _write(tmp_path / "train.parquet", range(12))
    rows = _rows(tmp_path).first(2)
    assert len(rows) == 2 and rows[1] == _png(PIXELS[1])
    assert [len(kept) for kept in rows._kept.values()] == [2]


def test_images_that_unpack_to_far_more_than_the_file_are_refused(tmp_path: Path) -> None:
    large = pa.array([_png(PIXELS[0]) + bytes(30_000_000)] * 3, pa.large_binary())
    table = pa.table({"img": large, "label": [0, 1, 2]})
    pq.write_table(table, tmp_path / "test.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(RequestError, match="its images unpack from"):
        read(tmp_path, "test", 1)


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    """Two shards with row groups of 2, 2 and 1 images."""
    for shard, rows in enumerate([range(5), range(5, 10)]):
        path = tmp_path / f"train-{shard:05}-of-00002.parquet"
        _write(path, rows)
        pq.write_table(pq.read_table(path), path, row_group_size=2)
    return tmp_path


def test_any_image_is_read_by_its_row_group_and_named_by_file_and_row(groups: Path) -> None:
    rows = _rows(groups)
    assert (len(rows), find(groups, "train").y.tolist()) == (10, LABELS[:10].tolist())
    for i in (7, 0, 9, 4):
        assert rows[i] == _png(PIXELS[i])
    assert rows.name(7) == f"row 2 of {groups / 'train-00001-of-00002.parquet'}"


def test_only_so_many_bytes_of_row_groups_stay_in_memory(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _rows(groups)
    monkeypatch.setattr(parquet, "KEPT", 2 * max(rows.bytes))
    for i in range(10):
        assert rows[i] == _png(PIXELS[i])
        assert sum(rows.bytes[group] for group in rows._kept) <= 2 * max(rows.bytes)
    assert all(not isinstance(value, pa.Table) for value in vars(rows).values())


def test_shuffling_is_a_permutation_and_a_function_of_the_generator(groups: Path) -> None:
    rows = _rows(groups)
    one, same, other = (rows.shuffled(torch.arange(10), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert sorted(one.tolist()) == list(range(10))


def test_a_block_of_row_groups_is_read_out_before_the_next(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "BLOCK", 1)  # every group is a block of its own
    rows = _rows(groups)
    chosen = torch.tensor([0, 1, 2, 3, 5, 6, 9])  # part of the split: positions are those in it
    order = rows.shuffled(chosen, torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(7))
    read_groups = [rows._group_of(int(chosen[position])) for position in order]
    changes = sum(a != b for a, b in pairwise(read_groups))
    assert changes == len(set(read_groups)) - 1


def test_a_file_that_vanished_is_named(groups: Path) -> None:
    rows = _rows(groups)
    (groups / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(RequestError, match=r"cannot read .*train-00001-of-00002\.parquet"):
        rows[8]
