"""What is read and written: only regular files, whole or not at all, never where a link leads."""

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from jaxcnn import cli
from jaxcnn.analysis import arms, bench
from jaxcnn.config import Data, Experiment, to_dict
from jaxcnn.errors import InputError
from jaxcnn.learning import files, run_folder
from jaxcnn.learning.records import Together


def fifo(path):
    os.mkfifo(path)


def device(path):
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root can make a device")


def unix_socket(path):
    os.chdir(path.parent)  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(path.name)


def link(path):
    victim = path.parent / "victim"
    victim.write_text("mine")
    path.symlink_to(victim)


SPECIAL = {
    "a FIFO": fifo,
    "a device": device,
    "a socket": unix_socket,
    "a folder": Path.mkdir,
    "a link": link,
}


@pytest.fixture(params=SPECIAL)
def special(request, tmp_path, monkeypatch):
    """A path where no regular file lies, and what lies there."""
    monkeypatch.chdir(tmp_path)
    SPECIAL[request.param](tmp_path / "special")
    return tmp_path / "special", request.param


def test_only_a_regular_file_is_replaced(special):
    path, kind = special
    before = path.lstat()
    with pytest.raises(InputError, match=rf"special: cannot be written \(is {kind}"):
        files.write_json(path, 1)
    assert os.path.samestat(path.lstat(), before)
    assert not list(path.parent.glob(".*.partial"))
    if kind == "a link":
        assert path.read_text() == "mine"
        with pytest.raises(OSError, match="symbolic links"):
            files.append_bytes(path, b"more")
        assert path.read_text() == "mine"


def test_only_a_regular_file_is_read(special):
    path, kind = special
    if kind == "a link":
        assert files.read_bytes(path) == b"mine"
    with pytest.raises(InputError, match="special: cannot be read"):
        files.read_bytes(path, follow=False)


def test_a_path_of_the_user_is_followed_to_a_regular_file_alone(special):
    path, kind = special
    (path.parent / "way").symlink_to(path)
    if kind == "a link":
        assert files.destination(path.parent / "way", "--out", "mine") == path.parent / "victim"
        return
    for given in (path, path.parent / "way"):
        with pytest.raises(InputError, match=rf"--out {given}: cannot be written \(is {kind}"):
            files.destination(given, "--out", "mine")


def test_where_a_path_of_the_user_leads(tmp_path):
    (tmp_path / "to nothing").symlink_to(tmp_path / "new" / "folder" / "page.html")
    found = files.destination(tmp_path / "to nothing", "--out", "page")
    files.write_text(found, "page")
    assert (tmp_path / "new" / "folder" / "page.html").read_text() == "page"
    assert (tmp_path / "to nothing").is_symlink()
    (tmp_path / "round").symlink_to(tmp_path / "round")
    long = "long" * 100
    for name in ("round", "to nothing/below a file", "a\0b", long, f"{long}/x", ""):
        with pytest.raises(InputError, match=r"--out .*cannot be written"):
            files.destination(tmp_path / name, "--out", "page")


def test_a_file_that_holds_something_else_stays(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "way").symlink_to("config.json")
    for name in ("config.json", "way"):
        with pytest.raises(InputError, match=rf"--out {tmp_path / name}: .*holds something else"):
            files.destination(tmp_path / name, "--out", "page")
    for content in ("", "page of yesterday"):
        (tmp_path / "config.json").write_text(content)
        assert files.destination(tmp_path / "way", "--out", "page") == tmp_path / "config.json"


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    files.write_json(path, "old")

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        files.write_json(path, "new")
    assert error.value.filename == str(path)
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]
    assert path.read_text() == '"old"\n'


def test_a_file_has_the_permissions_of_any_other(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "a", "\udcff is shown")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert (tmp_path / "a").read_text() == "\\udcff is shown"


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST", 10)
    (tmp_path / "a").write_bytes(b"1" * 10)
    assert files.read(tmp_path / "a", int) == 1111111111
    (tmp_path / "a").write_bytes(b"1" * 11)
    with pytest.raises(InputError, match="more than 10 bytes"):
        files.read(tmp_path / "a", int)


def test_a_last_line_may_be_cut_short(tmp_path):
    path = tmp_path / "lines"
    for content, found in (("", []), ("1\n2", [1, 2]), ("1\n2\n[", [1, 2]), ("1\n2\n", [1, 2])):
        path.write_text(content)
        assert [value for _, _, value in files.read_lines(path, int)] == found
    path.write_text("1\n[\n2")
    one, fault, two = (value for _, _, value in files.read_lines(path, int))
    assert (one, two) == (1, 2)
    assert str(fault).startswith(f"{path}: line 2 is damaged: ")


def test_names_that_are_not_utf8_survive(tmp_path):
    """JSON holds them as half surrogates."""
    files.write_json(tmp_path / "together.json", {"modes": {"\udcff": "map"}})
    assert files.read(tmp_path / "together.json", Together).modes == {"\udcff": "map"}


@pytest.mark.parametrize("command", ["report", "bench"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    command, capsys, tmp_path, monkeypatch
):
    def work(*args):
        raise AssertionError("the work was begun")

    monkeypatch.setattr(arms, "read_all", work)
    monkeypatch.setattr(bench, "measure_roofs", work)
    out = tmp_path / "out"
    os.mkfifo(out)
    place = str(tmp_path) if command == "report" else "lenet5"
    assert cli.main([command, place, "--out", str(out)]) == 2
    line = f"jaxcnn: error: --out {out}: cannot be written (is a FIFO, must be a regular file)\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *(("compare", n) for n in ("report.html", "comparison.json", "comparison.png")),
        *(("sweep", name) for name in ("sweep.json", "sweep.png", "together.json")),
        ("train", "seeds.json"),
    ],
)
def test_results_of_many_runs_have_their_place_before_the_work(command, name, capsys, tmp_path):
    given = {
        "compare": ["experiments/compare_digits.py"],
        "sweep": ["experiments/lenet5_digits.py", "train.seed=0"],
        "train": ["experiments/lenet5_digits.py", "--seeds", "2"],
    }
    workdir = tmp_path / "runs"
    workdir.mkdir()
    (workdir / name).symlink_to(tmp_path / "elsewhere")
    assert cli.main([command, *given[command], "--workdir", str(workdir)]) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith(f"jaxcnn: error: {workdir / name}: cannot be written")
    assert os.listdir(workdir) == [name]  # noqa: PTH208
    assert not (tmp_path / "elsewhere").exists()


def test_every_run_has_its_place_before_the_first_is_trained(capsys, tmp_path):
    (tmp_path / "seed1").mkdir()
    (tmp_path / "seed1" / "curves.png").symlink_to(tmp_path / "elsewhere")
    command = ("train", "experiments/lenet5_digits.py", "--seeds", "2", "--workdir", str(tmp_path))
    assert cli.main(command) == 2
    assert "seed1/curves.png: cannot be written (is a link" in capsys.readouterr().err
    assert not (tmp_path / "seed0").exists()


# ----------------------------------------------------------------------------- the run folder


@pytest.mark.parametrize("name", [*run_folder.FILES, ".lock"])
def test_a_link_in_a_run_folder_is_not_written_through(name, tmp_path):
    victim, workdir = tmp_path / "victim", tmp_path / "run"
    victim.write_text("mine")
    workdir.mkdir()
    (workdir / name).symlink_to(victim)
    with pytest.raises(InputError, match=rf"{name}: cannot be written \(is a link"):
        run_folder.RunFolder(workdir)
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("name", ["", *run_folder.FOLDERS])
def test_a_file_where_a_folder_belongs_is_named(name, tmp_path):
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    with pytest.raises(InputError, match=f"workdir {path}: cannot be written"):
        run_folder.check_place(tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("config.json", "config: unknown section 'architectures'"),
        ("dataset.json", "holds a dataset.json of no run"),
        ("summary.json", "config.json: no such file"),
    ],
)
def test_files_of_no_run_are_not_replaced(name, named, capsys, tmp_path):
    (tmp_path / name).write_text('{"architectures": ["BertModel"]}')
    arguments = ("experiments/lenet5_digits.py", "--workdir", str(tmp_path))
    assert cli.main(["train", *arguments]) == 2
    assert named in capsys.readouterr().err
    assert (tmp_path / name).read_text() == '{"architectures": ["BertModel"]}'
    assert os.listdir(tmp_path) == [name]  # noqa: PTH208


def test_folders_may_be_links(tmp_path):
    (tmp_path / "disk" / "tb").mkdir(parents=True)
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    opened = run_folder.RunFolder(tmp_path / "run")
    opened.claim(to_dict(Experiment(data=Data("digits"))), {}, {})
    opened.close()
    assert run_folder.read_config(tmp_path / "disk").data.name == "digits"
