"""The page that is served while runs train, and that of a sweep."""

import json
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
from scipy.stats import spearmanr

from jaxcnn import cli
from jaxcnn.analysis import live, plots, sweep
from jaxcnn.errors import InputError
from jaxcnn.tasks.classification import TOP1


def test_a_page_is_served_here_alone_and_made_anew_after_a_change(tmp_path):
    (tmp_path / "a.json").write_text("1")
    pages = iter(("<p>first</p>", "<p>second</p>", InputError("half written")))

    def build():
        page = next(pages)
        if isinstance(page, InputError):
            raise page
        return page

    with live.server(live.Served(tmp_path, build), 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"

        def get(place, **headers):
            with urllib.request.urlopen(
                urllib.request.Request(address + place, headers=headers)
            ) as a:
                return a.read().decode()

        first = get("/version")
        assert get("/") == get("/") == "<p>first</p>"
        assert get("/version") == first
        (tmp_path / "a.json").write_text("22")
        assert get("/version") != first
        assert get("/") == "<p>second</p>"
        (tmp_path / "a.json").write_text("333")
        assert get("/") == "<p>second</p>"  # as long as files cannot be read
        for place, host in (("/", "evil.example:80"), ("/a.json", "localhost:80")):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get(place, Host=host)
        with pytest.raises(InputError, match="Address already in use"):
            live.server(live.Served(tmp_path, build), server.server_address[1])
        server.shutdown()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--watch", "{}"), "neither is nor holds a run folder"),
        (("--watch", "{}/none"), "neither is nor holds a run folder"),
        (("--watch", "{}", "{}"), "must be of one folder, got 2"),
        (
            ("--watch", "{}", "--port", "99999"),
            "--port=99999: must be a whole number in [0, 65535]",
        ),
        (("--watch", "{}", "--port", "x"), "--port"),
        (("{}", "--port", "8010"), "--port 8010: is for --watch"),
        (("--watch", "{}", "--out", "a.html"), "--out a.html: must be left out with --watch"),
    ],
)
def test_what_cannot_be_watched_is_named(tmp_path, capsys, args, said):
    assert cli.main(["report", *(arg.format(tmp_path) for arg in args)]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


RATES, OPTIMS = (0.001, 0.01, 0.1, 1.0), ("sgd", "adamw")
ROWS = [
    {
        "trial": f"trial-{i}",
        "values": {"optim.peak_lr": rate, "optim.name": OPTIMS[i % 2]},
        "val_top1": value,
        "val_loss": 1.0,
        "test_top1": value,
        "test_loss": 1.0,
        "seconds": 1.0,
    }
    for i, (rate, value) in enumerate(zip(RATES, (0.3, 0.9, 0.5, 0.2), strict=True))
]


def test_a_sweep_is_shown_by_rank_and_values():
    found = sweep.Sweep("a", sweep.ordered(ROWS, TOP1), "validation", TOP1)
    headers, rows = sweep.page_cells(found)
    assert headers[:3] == ["rank", "peak_lr", "optim"]
    assert [row[:3] for row in rows][:2] == [["1", "0.01", "adamw"], ["2", "0.1", "sgd"]]
    wanted = spearmanr(RATES, [0.3, 0.9, 0.5, 0.2]).statistic
    associated = sweep.associations(found)
    assert associated["optim.peak_lr"] == pytest.approx(wanted)
    assert associated["optim.name"] == pytest.approx(0)  # ranks 2, 3 and 4, 1: the same mean
    assert json.dumps(associated)[1:-1] in sweep.page(found)


def test_of_equal_trials_the_first_of_the_table_is_drawn_as_the_best():
    rows = sweep.ordered([{**row, "val_top1": min(row["val_top1"], 0.5)} for row in ROWS], TOP1)
    with plots.canvas(4, 3) as figure:
        drawn = plots._parallel(figure, rows, "validation", TOP1, {})
        (best,) = [line for line in drawn.lines if line.get_color() == plots.COLOURS[0]]
        heights, _ = plots._coordinate([row["values"]["optim.peak_lr"] for row in rows])
    assert rows[0]["val_top1"] == rows[1]["val_top1"] == 0.5
    assert best.get_ydata()[0] == heights[0]


def test_fields_are_drawn_on_the_scale_of_the_search():
    heights, ticks = plots._coordinate([0.01, 0.1], ("log", 1e-3, 1.0))
    np.testing.assert_allclose(heights, [1 / 3, 2 / 3])
    assert [text for _, text in ticks] == ["0.001", "0.01", "0.1", "1"]
    assert plots._coordinate([8, 36], ("int", 8, 64))[0] == [0, 0.5]
    places = [height for height, _ in plots._apart([(i / 100, str(i)) for i in range(101)])]
    assert (places[0], places[-1]) == (0, 1)
    assert min(np.diff(places)) >= plots.SPACING


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda kept: kept.pop("selected_on"), "selected_on"),
        (lambda kept: kept.update(selected_by="mae"), "selected_by='mae'"),
        (lambda kept: kept.update(trials=[]), "no trial has a result"),
        (lambda kept: kept["trials"][1].pop("trial"), "`trial` of one"),
        (lambda kept: kept["trials"][0].update(trial=3), "`trial` of one"),
        (lambda kept: kept["trials"][1].pop("val_top1"), "`val_top1` of one"),
        (lambda kept: kept["trials"][1].update(seconds="long"), "`seconds` of one"),
        (lambda kept: kept["trials"][1].pop("values"), "`values` of one"),
        (lambda kept: kept["trials"][1].update(values={"a": 4}), "`values` of one"),
        (lambda kept: kept["trials"][1]["values"].update({"optim.peak_lr": 10**400}), "`values`"),
        (lambda kept: kept["trials"][1].pop("test_loss"), "`test_loss` of one"),
        (lambda kept: kept.update(costs=["macs"]), "`macs` of one"),
        (lambda kept: kept.update(importances={"a": "b"}), "importances"),
        (lambda kept: kept.update(scales={"a": ["log", 0.0, 1.0]}), "scales: a: must be from"),
        (lambda kept: kept.update(scales={"a": ["cubic", 0.0, 1.0]}), "scales"),
    ],
)
def test_a_damaged_list_of_trials_is_one_line(tmp_path, capsys, damage, named):
    found = sweep.Sweep("a", sweep.ordered(ROWS, TOP1), "validation", TOP1)
    kept = json.loads(json.dumps(sweep.to_json(found)))
    damage(kept)
    (tmp_path / "sweep.json").write_text(json.dumps(kept))
    page = tmp_path / "page.html"
    assert cli.main(["report", str(tmp_path), "--out", str(page)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"jaxcnn: error: {tmp_path / 'sweep.json'}")
    assert named in said
    assert said.count("\n") == 1
    assert not page.exists()


@pytest.mark.parametrize("option", ["--data-dir", "--from"])
def test_a_page_of_a_sweep_has_no_data_and_no_network(tmp_path, capsys, option):
    (tmp_path / "sweep.json").write_text("{}")
    assert cli.main(["report", str(tmp_path), option, str(tmp_path)]) == 2
    said = f"{option}: must be left out, since {tmp_path} is that of a sweep"
    assert said in capsys.readouterr().err


def test_trials_without_results_have_rows_of_their_own(tmp_path):
    rows = [
        *ROWS,
        {"trial": "trial-9", "values": ROWS[0]["values"], "pruned": "after epoch 1, low"},
    ]
    scales = {"optim.peak_lr": ("log", 1e-4, 1.0)}
    found = sweep.Sweep("a", rows, "validation", TOP1, scales=scales)
    (tmp_path / "sweep.json").write_text(json.dumps(sweep.to_json(found)))
    again = sweep.read(tmp_path)
    assert again.scales == scales
    assert sweep.to_json(again)["trials"] == sweep.ordered(rows, TOP1)
    assert "pruned after epoch 1" in sweep.page(again)
