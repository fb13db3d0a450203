"""Data by address: NumPy's arrays, a table of files and labels, Hugging Face's datasets."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from jaxcnn.config import Data
from jaxcnn.data import sources
from jaxcnn.errors import InputError


def pictures(n, seed, side=8):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, side, side, 3), np.uint8), np.arange(n) % 3


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
    ],
)
def test_arrays_of_numpy(tmp_path, names):
    x, y = pictures(12, 0)
    xt, yt = pictures(6, 1)
    arrays = dict(zip(names, (x, y[:, None], xt, yt), strict=True))  # as MedMNIST has labels
    np.savez(tmp_path / "a.npz", **arrays, classes=np.array(["a", "b", "c"]))
    found = sources.load(Data("npz:a.npz", dir=str(tmp_path), batch_size=4))
    np.testing.assert_array_equal(found.train.images, x)
    np.testing.assert_array_equal(found.train.labels, y)
    np.testing.assert_array_equal(found.test.images, xt)
    assert found.classes == ("a", "b", "c")
    by_path = sources.load(Data(f"npz:{tmp_path / 'a.npz'}", batch_size=4))
    np.testing.assert_array_equal(by_path.test.labels, yt)


def test_without_a_test_split_a_share_is_held_out_and_said(tmp_path):
    x, y = pictures(30, 0)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y)
    found = sources.load(Data("npz:a.npz", dir=str(tmp_path), batch_size=4, test_share=0.3))
    assert np.bincount(found.test.labels).tolist() == [3, 3, 3]
    assert (len(found.train), len(found.test)) == (21, 9)
    assert "21 train and 9 test (data.test_share=0.3" in found.note
    assert found.classes == ("0", "1", "2")


def table(folder, rows, header="file,label,split"):
    (folder / "table.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return Data("csv:table.csv", dir=str(folder), batch_size=2, image_size=8, fit="resize")


@pytest.fixture
def files(tmp_path):
    images, _ = pictures(8, 0)
    (tmp_path / "ä b").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "ä b" / f"{i}.png")
    return tmp_path, images


@pytest.mark.parametrize("streaming", [False, True])
def test_a_table_of_files(files, streaming):
    folder, images = files
    splits = ["train", "train", "test", "train", "val", "test", "train", "validation"]
    rows = [f"ä b/{i}.png,class{10 - 8 * (i % 2)},{split}" for i, split in enumerate(splits)]
    config = table(folder, rows)
    config = Data(**{**vars(config), "streaming": streaming, "validation": "validation"})
    found = sources.load(config)
    assert found.classes == ("class2", "class10")
    for split, places in (("train", [0, 1, 3, 6]), ("test", [2, 5]), ("validation", [4, 7])):
        source = found.train if split == "train" else found.held_out[split]
        examples = source.read(np.arange(len(source)))
        np.testing.assert_array_equal(examples["image"], images[places])
        assert examples["label"].tolist() == [1 - i % 2 for i in places]


BAD_ROWS = [
    (
        ["a.png,x,train"],
        "file,class",
        r"^data.name='csv:table.csv': needs the columns file and label \(or mask\), lacks label",
    ),
    ([], "file,label", "has no rows below the header"),
    (["/etc/passwd,x"], "file,label", r"line 2: file='/etc/passwd' must be a path below"),
    (["../a.png,x"], "file,label", r"line 2: file='../a.png' must be a path below"),
    (["ä b/0.png,"], "file,label", "line 2: label must be not empty"),
    (["ä b/0.png,x,dev"], "file,label,split", "line 2: split must be train, test, val"),
    (['"ä b/0.png,x'], "file,label", "cannot be read as a table in UTF-8"),
    (["ä b/0.png,x,test"], "file,label,split", "needs a split train, has test"),
]


@pytest.mark.parametrize(("rows", "header", "said"), BAD_ROWS)
def test_a_table_that_is_none_is_said_in_one_line(files, rows, header, said):
    with pytest.raises(InputError, match=said) as error:
        sources.load(table(files[0], rows, header))
    assert "\n" not in str(error.value)


class Pickled:
    def __reduce__(self):
        return print, ("run",)


def test_lines_are_counted_as_an_editor_does(files):
    config = table(files[0], ["ä b/0.png,a", "", "", "../1.png,b"], header="file,label")
    with pytest.raises(InputError, match=r"line 5: file='\.\./1\.png' must be a path below"):
        sources.load(config)


def test_a_table_of_one_class_is_refused_unless_it_holds_numbers(files):
    config = table(files[0], [f"ä b/{i}.png,7" for i in range(8)], header="file,label")
    with pytest.raises(InputError, match="must name two classes or more, names 7"):
        sources.load(config)
    assert sources.load(replace(config, labels="numbers")).classes == ("value",)


def test_arrays_that_are_none_are_said_in_one_line(tmp_path, capsys):
    x, y = pictures(6, 0)
    np.savez(tmp_path / "names.npz", images=x, labels=y)
    np.savez(tmp_path / "pickle.npz", x_train=np.array([Pickled()] * 3), y_train=y[:3])
    np.savez(tmp_path / "labels.npz", x_train=x, y_train=y[:4])
    (tmp_path / "text.npz").write_text("no zip")
    cases = {
        "names": "needs arrays x_train and y_train, .* has images, labels",
        "pickle": "cannot be read as arrays without pickle",
        "labels": r"train labels: must be of shape \(6,\)",
        "text": "cannot be read as arrays",
        "nothing": "does not exist",
    }
    for name, said in cases.items():
        with pytest.raises(InputError, match=said) as error:
            sources.load(Data(f"npz:{name}.npz", dir=str(tmp_path), batch_size=1))
        assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


def test_a_share_beside_a_test_split_is_refused(tmp_path):
    x, y = pictures(6, 0)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(InputError, match=r"data\.test_share=0\.5: must be None with a test split"):
        sources.load(Data("npz:a.npz", dir=str(tmp_path), batch_size=1, test_share=0.5))


@pytest.mark.parametrize("form", ["disk", "parquet", "imagefolder"])
def test_datasets_of_hugging_face(tmp_path, form):
    datasets = pytest.importorskip("datasets")
    images, labels = pictures(9, 0)
    names = ["ant", "bee", "cat"]
    splits = {"train": range(6), "test": range(6, 9)}
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
    made = datasets.DatasetDict(
        {
            name: datasets.Dataset.from_dict(
                {
                    "image": [Image.fromarray(images[i]) for i in places],
                    "label": [int(labels[i]) for i in places],
                },
                features,
            )
            for name, places in splits.items()
        }
    )
    place = tmp_path / "set"
    if form == "disk":
        made.save_to_disk(str(place))
    elif form == "parquet":
        place.mkdir()
        for name, split in made.items():
            split.to_parquet(str(place / f"{name}-00000-of-00001.parquet"))
    else:
        for name, places in splits.items():
            for i in places:
                (place / name / names[labels[i]]).mkdir(parents=True, exist_ok=True)
                Image.fromarray(images[i]).save(place / name / names[labels[i]] / f"{i}.png")
    found = sources.load(Data("hf:set", dir=str(tmp_path), batch_size=2))
    assert found.classes == ("ant", "bee", "cat")
    for source, places in ((found.train, splits["train"]), (found.test, splits["test"])):
        order = np.lexsort(source.images.reshape(len(places), -1).T)
        expected = images[list(places)]
        by_content = np.lexsort(expected.reshape(len(places), -1).T)
        np.testing.assert_array_equal(source.images[order], expected[by_content])
        np.testing.assert_array_equal(source.labels[order], labels[list(places)][by_content])


def test_a_folder_of_no_dataset_is_said_in_one_line(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))
    with pytest.raises(InputError, match="cannot be read by Hugging Face's datasets") as error:
        sources.load(Data("hf:set", dir=str(tmp_path), batch_size=2))
    assert "\n" not in str(error.value)
