"""Event files: those that torch's writer makes, old and new records, cut off and damaged."""

import subprocess
import sys

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from analysis_db import Store, StoreError
from analysis_db.imports.runs import StepRows, store_imported_runs
from analysis_db.imports.tensorboard import event_files, read_events
from analysis_db.series import SeriesKey, read_series


@pytest.fixture
def folder(tmp_path):
    """A run that logged two scalars and a histogram, and went back to step 3 once."""
    folder = tmp_path / "run"
    for number, steps in enumerate((range(5), range(3, 8))):
        with SummaryWriter(folder, filename_suffix=f".{number}") as writer:
            for step in steps:
                writer.add_scalar("train/loss", 10.0 * number + step, step)
            writer.add_scalar("eval", float("nan"), 4)
            # as TensorFlow 2 writes a scalar
            writer.add_scalar("new", 0.5, 6 + number, new_style=True)
            writer.add_histogram("weights", np.array([1.0, 2.0]), 1)
    return folder


def read(paths, metrics=None):
    rows, remarks = StepRows(), []
    files = event_files(paths)
    for file in files:
        remarks += read_events(file, metrics or {}, rows)
    return rows, remarks, files


def test_scalars_of_a_run_with_a_restart(folder, tmp_path):
    rows, remarks, files = read([folder])
    assert remarks == []
    store = Store(tmp_path / "metrics.duckdb")
    done = store_imported_runs(store, {"r": rows}, files)
    loss = read_series(store, SeriesKey("r", "train/loss"))
    assert loss.steps.tolist() == [0, 1, 2, 3, 4, 3, 4, 5, 6, 7]
    assert loss.values.tolist() == [0, 1, 2, 3, 4, 13, 14, 15, 16, 17]
    assert loss.restarts == [(4, 3)]
    assert read_series(store, SeriesKey("r", "new")).values.tolist() == [0.5, 0.5]
    assert rows.metrics == ["eval", "new", "train/loss"]
    assert done.remarks == ["Left out, no numbers: weights.", "2 values are not finite: NULL in "
                            "the store."]  # fmt: skip


def test_tags_that_were_asked_for(folder):
    rows, _, _ = read([folder], {"train/loss": "loss"})
    assert rows.metrics == ["loss"]
    for tag in ("lr", "weights"):
        with pytest.raises(StoreError, match=f"has no scalar '{tag}'"):
            read([folder], {tag: tag})


def test_a_file_that_was_cut_off_is_read_up_to_there(folder):
    file = event_files([folder])[1]
    whole = file.read_bytes()
    before = len(read([file])[0].table("r"))
    for cut in (3, 10):
        file.write_bytes(whole[:-cut])
        rows, remarks, _ = read([file])
        assert remarks == [f"The last record of {file} was cut off; what comes before it is there."]
        assert len(rows.table("r")) <= before


def test_a_damaged_record_is_named(folder):
    file = event_files([folder])[0]
    content = bytearray(file.read_bytes())
    content[content.index(b"train/loss")] ^= 1
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"tfevents.*, record \d+: its checksum is wrong"):
        read([folder])


def test_folders_and_files_that_are_no_run(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="holds no event file"):
        read([tmp_path / "empty"])
    with pytest.raises(StoreError, match="There is no event file"):
        read([tmp_path / "none"])
    with SummaryWriter(tmp_path / "run/eval") as writer:
        writer.add_scalar("loss", 1.0, 1)
    with pytest.raises(StoreError, match=r"holds the runs .*run, .*run/eval: import one at a time"):
        read([folder])
    text = tmp_path / "events.out.tfevents.txt"
    text.write_text("step,loss\n1,2\n" * 10)
    with pytest.raises(StoreError, match="record 1: its checksum is wrong"):
        read([text])


def test_without_the_package_one_sentence_says_how_to_get_it(folder):
    file = event_files([folder])[0]
    code = (
        "import sys; sys.modules['tensorboard'] = None\n"
        "from pathlib import Path\n"
        "from analysis_db.imports.runs import StepRows\n"
        "from analysis_db.imports.tensorboard import read_events\n"
        f"read_events(Path({str(file)!r}), {{}}, StepRows())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith(
        "is not installed: `pip install 'training-dynamics-workbench[tensorboard]'`."
    )
