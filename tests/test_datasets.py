"""The layout of BUSI: what is an image, what is its mask, and what is neither."""

import shutil

import pytest

from busistore.datasets import DATASETS, Fault, ImageRecord, reader
from busistore.errors import BadInput, UnknownName
from tests.fakes import busi_folder


@pytest.fixture
def read(folder):
    return lambda root=folder, name="busi": list(reader(name).records(root))


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_reader_reads_the_layout(read, name):
    found = read(name=name)
    assert [r.image_id for r in found][:2] == [f"{name}/benign-0001", f"{name}/benign-0002"]
    assert {(r.dataset, r.label) for r in found} == {(name, c) for c in ("benign", "malignant", "normal")}
    assert len(found) == 18


def test_all_masks_of_an_image(read):
    first = read()[0]
    assert [p.name for p in first.mask_paths] == ["benign (1)_mask.png", "benign (1)_mask_1.png"]


def test_the_folder_above_is_found_too(tmp_path, read):
    busi_folder(tmp_path / "download" / "Dataset_BUSI_with_GT", 2)
    assert len(read(tmp_path / "download")) == 6


def test_a_part_of_the_set_is_enough(folder, read):
    shutil.rmtree(folder / "normal")
    shutil.rmtree(folder / "malignant")
    assert len(read()) == 6


def test_numbers_sort_as_numbers(folder, read):
    for n in (10, 9):
        for suffix in ("", "_mask"):
            shutil.copy(folder / "benign" / f"benign (2){suffix}.png", folder / "benign" / f"benign ({n}){suffix}.png")
    assert [r.image_id[-4:] for r in read() if r.label == "benign"][-3:] == ["0006", "0009", "0010"]


def test_faults_are_listed_and_the_rest_is_read(folder, read):
    (folder / "benign" / "benign (2)_mask.png").unlink()
    (folder / "malignant" / "malignant (3).png").unlink()
    (folder / "normal" / "normal (1).png").rename(folder / "normal" / "scan.png")
    (folder / "normal" / "notes.txt").write_text("not a picture")
    faults = {f.key: f.reason for f in read() if isinstance(f, Fault)}
    assert faults == {
        "busi/benign/benign (2).png": "the image 'benign (2).png' has no mask 'benign (2)_mask.png'",
        "busi/malignant/malignant (3)_mask.png": "the mask 'malignant (3)_mask.png' has no image 'malignant (3).png'",
        "busi/normal/normal (1)_mask.png": "the mask 'normal (1)_mask.png' has no image 'normal (1).png'",
        "busi/normal/scan.png": "'scan.png' is not named as BUSI names a normal image or mask",
    }
    assert len([r for r in read() if isinstance(r, ImageRecord)]) == 15


def test_folders_that_are_not_busi(tmp_path, read):
    with pytest.raises(BadInput, match="there is no folder"):
        read(tmp_path / "nowhere")
    (tmp_path / "cats").mkdir()
    with pytest.raises(BadInput, match="is not a BUSI folder"):
        read(tmp_path / "cats")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        read(tmp_path / "file")


def test_unknown_data_set():
    with pytest.raises(UnknownName, match="did you mean 'busi'"):
        reader("buzi")


@pytest.mark.realdata
def test_real_images_are_all_read(busi_dir):
    found = list(reader("busi").records(busi_dir))
    assert not [r for r in found if isinstance(r, Fault)]
    n_images = sum("_mask" not in p.name for p in busi_dir.rglob("*.png"))
    assert len(found) == n_images
    assert sum(len(r.mask_paths) for r in found) == len(list(busi_dir.rglob("*_mask*.png")))
