"""Training in several processes: the same losses as in one, resumed with another number, and what ends all of them."""

from __future__ import annotations

import shutil
import threading
from types import SimpleNamespace

import pytest
import torch

from svg_common.errors import BackendMissingError, UsageError
from svg_train.checkpoint import load_checkpoint
from svg_train.config import build_config
from svg_train.data import open_data
from svg_train.data.loading import step_noise
from svg_train.data.source_locks import source_lock
from svg_train.machine import Machine
from svg_train.processes import LostLoaderError, LostProcessError, lost_processes_named, one_report_per_host
from svg_train.run_length import RunLength
from tests.command_runner import wait_until
from tests.conftest import TINY
from tests.families import TINY_MODELS
from tests.svg_train.run_processes import (
    TRAIN,
    assert_same_losses,
    bf16_on_the_second_host,
    ctrl_c_while_the_first_waits_for_the_second,
    losses,
    measurements_that_differ,
    no_space_in_the_second_process,
    overflow_in_one_process,
    record_decoding,
    run_launched,
    run_processes,
    second_vanishes_while_the_first_evaluates,
    start_processes,
    stop_after_two_steps,
    stop_the_last_while_the_first_evaluates,
    vanish_after_two_steps,
    write_recipe,
)
from tests.svg_train.test_data_video import write_video

SVG = {**TINY, "skip_lag": 0}
# What could differ between processes: batch statistics, noise that all sequences share, which frames are true ones.
MODELS = {
    "svg": SVG,
    "srvp-skips": TINY_MODELS["srvp-skips"],
    "ensemble": {**TINY_MODELS["ensemble"], "image_size": 40, "leads": 1},  # of two
    "predrnn-v2": {**TINY_MODELS["predrnn-v2"], "image_size": 40, "sampling_ramp": [0, 8]},
}


@pytest.fixture
def recipe(tmp_path):
    return write_recipe(tmp_path / "tiny.toml", model=SVG, train=TRAIN)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of one process, by the name of its model."""
    folder = tmp_path_factory.mktemp("whole")

    def run(name):
        if not (folder / name).exists():
            recipe = write_recipe(folder / f"{name}.toml", model=MODELS[name], train=TRAIN)
            run_processes(1, ["--config", str(recipe), "--out", name], folder)
        return folder / name

    return run


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run of the model svg that was stopped after two steps, by its number of processes."""
    folder = tmp_path_factory.mktemp("stopped")
    recipe = write_recipe(folder / "tiny.toml", model=SVG, train=TRAIN)

    def run(count):
        out = folder / f"{count}-processes"
        if not out.exists():
            runs = start_processes(count, ["--config", str(recipe), "--out", out.name], folder, stop_after_two_steps)
            for number, run in enumerate(runs):
                assert run.wait() == 130, run.output
                assert ("stopped at step 2, saved" in run.output) == (number == 0)
            assert list(losses(out)) == [1, 2]
        return out

    return run


@pytest.mark.parametrize("name", MODELS)
def test_two_processes_have_the_losses_of_one(tmp_path, whole, name):
    recipe = write_recipe(tmp_path / "tiny.toml", model=MODELS[name], train=TRAIN)
    run_processes(2, ["--config", str(recipe)], tmp_path)
    assert_same_losses(whole(name), tmp_path / "run")
    quality = [losses(folder, "eval")[4]["psnr_best"] for folder in (whole(name), tmp_path / "run")]
    assert quality[1] == pytest.approx(quality[0], abs=1e-2)
    one, two = (load_checkpoint(folder / "last.pt") for folder in (whole(name), tmp_path / "run"))
    assert one.weights.keys() == two.weights.keys()
    # Of averaged weights, and of those in training. Not the means: the gradients of the biases before them are rounding errors.
    for expected, given in ((one.weights, two.weights), (one.training["weights"], two.training["weights"])):
        for key in (key for key in expected if "running_var" in key):
            torch.testing.assert_close(given[key], expected[key], rtol=2e-2, atol=1e-5)


def test_four_processes_have_the_losses_of_one_with_random_views_of_clips(tmp_path):
    write_video(tmp_path / "clip.mkv", frames=60)
    views = {"crop": [0.5, 1.0], "flip": True, "brightness": 0.3, "moving": 2}
    data = {"name": "video", "root": str(tmp_path / "clip.mkv"), "cache": str(tmp_path / "cache"), **views}
    recipe = write_recipe(tmp_path / "tiny.toml", model=SVG, data=data, train={**TRAIN, "steps": 3})
    for count in (1, 4):
        run_processes(count, ["--config", str(recipe), "--out", f"run-{count}"], tmp_path)
    assert_same_losses(tmp_path / "run-1", tmp_path / "run-4")


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 4)])
def test_a_run_goes_on_with_another_number_of_processes(tmp_path, whole, stopped, before, after):
    shutil.copytree(stopped(before), tmp_path / "run")
    run_processes(after, ["--resume"], tmp_path)
    assert_same_losses(whole("svg"), tmp_path / "run")


@pytest.mark.parametrize("hosts", [1, 2])
def test_a_signal_to_any_process_gives_up_the_evaluation_in_all(tmp_path, hosts):
    recipe = write_recipe(tmp_path / "tiny.toml", model=SVG, train={**TRAIN, "eval_horizon": 60})  # of 12 s
    runs = start_processes(2, ["--config", str(recipe)], tmp_path, stop_the_last_while_the_first_evaluates, hosts)
    for number, run in enumerate(runs):
        assert run.wait() == 130, run.output
        assert ("stopped at step 4, saved" in run.output) == (number % (2 // hosts) == 0)
    assert 0 < len((tmp_path / "forecast-steps").read_text()) < 50
    assert not losses(tmp_path / "run", "eval")
    run_processes(1, ["--resume"], tmp_path)
    assert list(losses(tmp_path / "run", "eval")) == [4]
    assert load_checkpoint(tmp_path / "run" / "ckpt.pt").step == 4


def test_a_number_of_processes_that_does_not_divide_the_batch_is_refused_once_per_host(tmp_path, recipe):
    first, *others = start_processes(3, ["--config", str(recipe)], tmp_path)
    first.assert_one_message(2)
    assert "a batch of 4 sequences cannot be shared equally by 3 processes" in first.output
    assert "expected a number of processes that divides it: 1, 2, 4" in first.output
    assert [(run.wait(), "error" in run.output) for run in others] == [(2, False)] * 2
    assert not (tmp_path / "run").exists()


def test_other_settings_or_data_on_another_host_are_refused(tmp_path, recipe):
    commands = [["--config", str(recipe)], ["--config", str(recipe), "--seed", "1"]]
    for run in start_processes(2, commands, tmp_path, hosts=2):
        run.assert_one_message(1)
        assert "the settings of process 1 differ from those of process 0" in run.output

    for level in (0, 2):
        (tmp_path / str(level)).mkdir()
        write_video(tmp_path / str(level) / "clip.mkv", first=level)
    video = ["--config", str(recipe), "--data", "video", "--data-root"]
    commands = [[*video, root, "--cache", f"cache-{root}"] for root in ("0", "2")]
    for run in start_processes(2, commands, tmp_path, hosts=2):
        run.assert_one_message(1)
        assert "the training sequences of process 1 differ from those of process 0" in run.output
    commands = [[*video, root, "--cache", f"cache-{root}"] for root in ("0", "missing")]
    here, there = start_processes(2, commands, tmp_path, hosts=2)
    here.assert_one_message(2)
    there.assert_one_message(2)
    assert "host 1 of this run ended:\n" in here.output
    assert "missing" in here.output
    assert "host 1" not in there.output


def test_another_precision_than_that_of_the_resumed_run_is_refused_with_the_one_to_give(tmp_path, stopped):
    shutil.copytree(stopped(1), tmp_path / "run")
    commands = [["--resume"], ["--resume", "--out", "elsewhere"]]  # the second host has a disk of its own
    for run in start_processes(2, commands, tmp_path, bf16_on_the_second_host, hosts=2):
        run.assert_one_message(1)
        assert "the settings of process 1 differ from those of process 0" in run.output
        assert "the run began in 32-true: add --precision 32-true on every host" in run.output


def test_hosts_with_disks_of_their_own_decode_their_own_copies(tmp_path, recipe):
    for host in range(2):
        (tmp_path / f"host-{host}").mkdir()
        write_video(tmp_path / f"host-{host}" / "clip.mkv")
    video = ["--config", str(recipe), "--steps", "1", "--data", "video", "--data-root"]
    commands = [[*video, f"host-{host}", "--cache", f"cache-{host}"] for host in range(2)]
    for run in start_processes(2, commands, tmp_path, record_decoding, hosts=2):
        assert run.wait() == 0, run.output
    assert (tmp_path / "decoded").read_text() == "clip.mkv\n" * 2
    for host in range(2):
        assert {file.suffix for file in (tmp_path / f"cache-{host}").iterdir()} == {".json", ".u8"}


def test_processes_that_share_a_cache_decode_each_file_once(tmp_path, recipe):
    (tmp_path / "clips").mkdir()
    names = [f"{number}.mkv" for number in range(4)]
    for name in names:
        write_video(tmp_path / "clips" / name, frames=40)
    command = ["--config", str(recipe), "--steps", "1", "--data", "video", "--data-root", "clips", "--cache", "cache"]
    for run in start_processes(4, command, tmp_path, record_decoding):
        assert run.wait() == 0, run.output
    assert sorted((tmp_path / "decoded").read_text().split()) == names
    assert {file.suffix for file in (tmp_path / "cache").iterdir()} == {".json", ".u8"}


def test_data_that_another_process_decodes_is_waited_for(tmp_path, monkeypatch, capsys):
    write_video(tmp_path / "clip.mkv")
    data = {"name": "video", "root": str(tmp_path / "clip.mkv"), "cache": str(tmp_path / "cache")}
    config = build_config({"model": {"n_past": 2}, "data": data})
    monkeypatch.setattr("svg_train.data.frame_cache._LOOK_EVERY_S", 0.05)
    opened = []
    with source_lock(tmp_path / "cache", tmp_path / "clip.mkv") as mine:
        assert mine
        other = threading.Thread(target=lambda: opened.append(open_data(config, "train", 4)))
        other.start()
        wait_until(lambda: "waiting for another process, which decodes clip.mkv" in capsys.readouterr().err)
        assert not opened
    other.join(60)
    assert len(opened) == 1


def test_without_locks_data_is_decoded_all_the_same(tmp_path, monkeypatch):
    write_video(tmp_path / "clip.mkv")
    data = {"name": "video", "root": str(tmp_path / "clip.mkv"), "cache": str(tmp_path / "cache")}

    def acquire(self, **options):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("svg_train.data.source_locks.FileLock.acquire", acquire)
    assert len(open_data(build_config({"model": {"n_past": 2}, "data": data}), "train", 4))


def test_a_process_that_is_killed_ends_the_others_with_a_message(tmp_path, recipe):
    here, there = start_processes(2, ["--config", str(recipe), "--steps", "100000"], tmp_path, vanish_after_two_steps)
    assert there.wait() == -9
    here.assert_one_message(1)
    assert "lost another process of this run: " in here.output
    assert "--out run --resume, on each" in here.output


@pytest.mark.parametrize(
    ("before", "code", "messages"),
    [
        (
            second_vanishes_while_the_first_evaluates,
            1,
            ["lost another process of this run: process 1 of this host was killed by signal 9", "--out run --resume, on each"],
        ),
        pytest.param(ctrl_c_while_the_first_waits_for_the_second, 130, ["interrupted"], marks=pytest.mark.slow),
    ],
)
def test_a_process_that_the_first_one_started_ends_it_with_the_documented_code(tmp_path, recipe, before, code, messages):
    ended = run_launched(["--config", str(recipe), "--eval-every", "1"], tmp_path, before)
    assert ended.returncode == code, ended.stderr
    assert ended.stderr.count("error: ") == 1, ended.stderr
    for message in messages:
        assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_divergence_in_one_process_ends_all_and_is_reported_once(tmp_path, recipe):
    here, there = start_processes(2, ["--config", str(recipe)], tmp_path, overflow_in_one_process)
    here.assert_one_message(1)
    assert "not finite at step 2 (loss inf)" in here.output
    assert (there.wait(), "error" in there.output) == (1, False)


def test_an_error_of_one_process_alone_is_reported_by_the_first(tmp_path, recipe):
    here, there = start_processes(2, ["--config", str(recipe)], tmp_path, no_space_in_the_second_process)
    here.assert_one_message(1)
    assert "error: no space left" in here.output
    assert (there.wait(), "error" in there.output) == (1, False)


def test_a_process_that_fabric_started_leaves_the_exit_code_to_the_first(monkeypatch):
    """Fabric would kill the first one, before it can say why."""
    monkeypatch.setattr("svg_train.processes.PACKAGES", ())  # whose messages other tests read
    for launched, code in (("x", 2), (None, 0)):
        if launched is None:
            monkeypatch.delenv("TORCHELASTIC_RUN_ID")
        else:
            monkeypatch.setenv("TORCHELASTIC_RUN_ID", launched)
        with pytest.raises(SystemExit) as ended, one_report_per_host(SimpleNamespace(local_rank=1)):
            raise UsageError("of all processes")
        assert ended.value.code == code


@pytest.mark.parametrize(
    ("saved", "lost_process", "lost_loader"),
    [
        ([], "continue from the last save", "start again: nothing"),  # of another host's folder nothing is known here
        (["ckpt.pt"], "start again with another --out: nothing", "start again with another --out: nothing"),
        (["ckpt.pt", "last.pt"], "continue from the last save", "continue from the last save"),
    ],
)
def test_what_to_do_depends_on_what_was_saved(tmp_path, saved, lost_process, lost_loader):
    for name in saved:
        (tmp_path / name).touch()
    assert lost_process in str(LostProcessError("closed", tmp_path))
    first = SimpleNamespace(node_rank=0, world_size=1)
    with pytest.raises(LostLoaderError, match=lost_loader), lost_processes_named(first, tmp_path):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")


def test_a_lost_data_loader_is_reported_by_its_own_process():
    with pytest.raises(LostLoaderError), one_report_per_host(SimpleNamespace(local_rank=1)):
        raise LostLoaderError("of this process alone")


def test_processes_share_one_clock_and_the_precision_that_the_first_measured(tmp_path, recipe):
    command = ["--config", str(recipe), "--train", "3s", "--eval-every", "100000", "--save-every", "100000"]
    runs = start_processes(2, [*command, "--precision", "auto"], tmp_path, measurements_that_differ)
    for run in runs:
        assert run.wait() == 0, run.output
    assert "cpu, bf16-mixed, 2 processes" in runs[0].output
    rates = [(tmp_path / f"rates-{rank}").read_text() for rank in range(2)]
    assert rates[0] == rates[1]
    assert float(rates[0].split()[-1]) == 0


def test_agreed_seconds_replace_those_of_the_clock():
    length = RunLength(build_config({"train": {"duration_s": 60, "warmup_steps": 0}}).train, now=lambda: 0.0)
    length.start()
    length.agree(45.0)
    assert (length.elapsed_s, length.learning_rate(10), length.measured_s()) == (45, 0.25, 0)


def test_shared_noise_is_that_of_the_first_sequence_and_the_rest_differs():
    noise, plain = step_noise((3, 4, 5), seed=1, step=2, shared=1), step_noise((3, 4, 5), seed=1, step=2)
    assert torch.equal(noise[..., :4], plain[..., :4])
    assert torch.equal(noise[..., 4], plain[:, :1, 4].expand(3, 4))


def under_torchrun(monkeypatch, world_size, here, hosts):
    values = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": here, "GROUP_WORLD_SIZE": hosts}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


def test_torchrun_says_how_many_processes_there_are(monkeypatch):
    under_torchrun(monkeypatch, 4, 2, 2)
    assert Machine().world_size == 4
    with pytest.raises(UsageError, match="remove --processes"):
        Machine("cpu", processes=2).fabric()
    under_torchrun(monkeypatch, 3, 2, 2)
    with pytest.raises(UsageError, match="same --nproc-per-node"):
        Machine("cpu").fabric()


def test_an_interface_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo,eth77")
    Machine("cpu").fabric()
    with pytest.raises(UsageError, match=r"GLOO_SOCKET_IFNAME is 'eth77', and this host has no such interface\n.*\blo\b"):
        Machine("cpu", processes=2).fabric()


def test_a_process_may_be_waited_for_without_end():
    assert Machine("cpu", processes=2, lost_after_s=1e300).fabric().strategy._timeout.days == 365


def test_each_process_needs_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(BackendMissingError, match=r"'cuda:2' is not available: PyTorch finds 2 GPUs\n.*: cuda:0, cuda:1$"):
        Machine("cuda:2").accelerator()
    with pytest.raises(UsageError, match="'cuda:1' is one GPU, but 2 processes"):
        Machine("cuda:1", processes=2, precision="32-true").fabric()
    with pytest.raises(UsageError, match="3 processes need a GPU each, but PyTorch finds 2"):
        Machine("cuda", processes=3, precision="32-true").fabric()
