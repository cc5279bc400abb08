"""The training loop: batches, one optimizer step each, held-out evaluation, checkpoints that can be resumed exactly."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, update_bn

from svg_common.errors import FULL_DISK, ExitCode, SvgError, UsageError
from svg_common.files import resolved
from svg_common.folder_lock import FolderLock
from svg_common.out_of_memory import is_out_of_memory
from svg_common.path_advice import shell_argument
from svg_common.signals import ignore_next_hangup, stop_signals
from svg_train.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from svg_train.config import Config, build_config
from svg_train.config_options import check_data_options
from svg_train.data import open_data
from svg_train.data.loading import StepSampler, collate, share_of_batch, step_noise, to_unit, training_loader
from svg_train.data.statistics import data_fingerprint, files_fingerprint, measure_training_data, warn_about_copies
from svg_train.data.trained_clips import all_trained_clips, trained_clips
from svg_train.evaluation import Evaluation, evaluate, held_out
from svg_train.evaluation_size import refuse_too_large
from svg_train.families import FAMILIES
from svg_train.families.video_model import TrainingOutput, VideoModel
from svg_train.initial_weights import initial_weights
from svg_train.journal import Journal
from svg_train.loss_scaling import LossScaling
from svg_train.machine import Machine, precision_name
from svg_train.own_processes import own_processes
from svg_train.pictures import save_strips
from svg_train.processes import (
    all_or_none,
    lost_processes_named,
    mean_over_processes,
    one_report_per_host,
    require_same,
    true_in_any,
)
from svg_train.run_folder import BEST, LAST, STRIPS
from svg_train.run_length import RunLength
from svg_train.saved_run import (
    SCORE,
    best_so_far,
    elapsed_s,
    owes_evaluation,
    refuse_existing,
    refuse_other_data,
    resume_point,
    saved_precision,
)
from svg_train.synced_norm import synchronize_norms
from svg_train.weight_average import warm_up_steps, warming_average

LOG_EVERY = 20  # steps between lines of metrics.jsonl
_LOOK_EVERY_S = 1.0  # between two questions whether another process is stopped, in an evaluation
BN_BATCHES = 24  # batches from which the averaged weights get their BatchNorm statistics
_SAME_SETTINGS = "start the same command on every host, with --precision if their processors differ; paths may differ"
_SAME_DATA = "expected the same files on every host, and the same versions of PyAV and OpenCV, which decode them"


class DivergedError(SvgError):
    """The loss, a gradient, a weight or a metric is no longer finite."""


class StoppedError(SvgError):
    """The run was stopped by a signal; it is saved and can be resumed."""

    exit_code = ExitCode.INTERRUPTED


class FullDiskError(SvgError):
    """Something could not be written; the run can be resumed from its last save."""


class _GivenUpError(Exception):
    """An evaluation has ended because the run is stopped."""


class Trainer:
    """One run in one folder. `run()` trains for the configured number of steps, or for the configured time.

    Args:
        config: of the run; when resuming, the saved one is used.
        out: folder of the run.
        machine: where to run.
        resume: continue the run in `out`.
        init: checkpoint whose weights a new run starts from (fine-tuning), ours or another program's.
        model_config: settings of that model which are not in its checkpoint, in the form that its program writes them.
        places: root and cache of the data of a resumed run, where they are other than before.

    Raises:
        CheckpointError: `init` cannot be read, or its model has another shape.
        UsageError: the run in `out` cannot be resumed, or the batch cannot be divided among the processes.
    """

    def __init__(
        self,
        config: Config,
        out: Path,
        machine: Machine,
        resume: bool,
        init: Path | None = None,
        model_config: Path | None = None,
        places: Mapping[str, str | None] | None = None,
    ) -> None:
        self._out = out
        self._places = places or {}
        self._lock = FolderLock(out)
        if machine.is_first:
            self._lock.hold()
            if not resume:
                refuse_existing(out)  # before the other processes, and the data, which may take hours to decode
        quiet = not machine.is_first
        self._init = initial_weights(init, config.model, model_config, quiet) if init is not None else None
        self._resumed = resume_point(out) if resume and machine.is_first else None
        self._config = self._in_its_places(self._resumed.config) if self._resumed else config
        self._machine = machine
        self._fabric = machine.fabric(saved_precision(self._resumed))
        self._stop_requested = False
        self._may_give_up = False

    def run(self) -> Evaluation | None:
        """Train, evaluate, save. Returns the last evaluation.

        Raises:
            DivergedError: loss, gradient, weights or metrics became non-finite; the last good checkpoint, if any, is kept.
            StoppedError: Ctrl-C, SIGTERM or SIGHUP; the run is saved.
            FullDiskError: a file cannot be written after the first save, from which the run can be resumed.
            LostProcessError: another process of the run is gone.
            LostLoaderError: a data loader process of this process is gone.
            FolderInUseError: another process trains into the same folder.
            SvgError, OSError: unusable data or output folder, here or in another process, or other data than before --resume.
            SystemExit: in a process that leaves the report to the first one of its host.
        """
        fabric, out = self._fabric, self._out
        with one_report_per_host(fabric), lost_processes_named(fabric, out), own_processes(fabric, out):
            # 1) start the processes; they have the same settings, and open the same data
            self._fabric = fabric = self._machine.connected(fabric)
            self._agree_on_settings()
            all_or_none(fabric, self._open)
            require_same(fabric, "the training sequences", data_fingerprint(self._data), _SAME_DATA)
            # 2) build model and optimizer, or restore them
            self._build()
            # 3) train from the first step, or from the one after the last save
            try:
                self._train()
            except OSError as error:
                if error.errno in FULL_DISK and self._saved_at is not None:
                    raise self._disk_is_full(error) from error
                raise
            finally:
                self._lock.release()
        return self._evaluation

    def _agree_on_settings(self) -> None:
        """Those of a saved run are what the first process has read: other hosts may not have its folder."""
        fabric = self._fabric
        self._resumed = fabric.broadcast(self._resumed)
        if self._resumed is not None:
            self._config = self._in_its_places(self._resumed.config)
        places = {"data": {"root", "cache"}}  # they may differ from host to host
        settings = f"{self._config.model_dump_json(exclude=places)} {precision_name(fabric)}"
        began_in = saved_precision(self._resumed)  # alone may differ then
        advice = (
            _SAME_SETTINGS if began_in is None else f"the run began in {began_in}: add --precision {began_in} on every host"
        )
        require_same(fabric, "the settings", settings, advice)
        size = self._config.train.batch_size
        if size % fabric.world_size:
            raise UsageError(
                f"a batch of {size} sequences cannot be shared equally by {fabric.world_size} processes\n"
                f"  expected a number of processes that divides it: {_divisors(size)}"
            )

    def _in_its_places(self, saved: Config) -> Config:
        """The settings of a resumed run, with its data where they are now."""
        if not self._places:
            return saved
        check_data_options(saved.data.name, self._places)
        return build_config(saved.model_dump(), {"data": dict(self._places)})

    def _open(self) -> None:
        """Open the data. The first process alone evaluates and saves."""
        trained_s = self._resumed.frame_interval_s if self._resumed is not None else None
        self._data = open_data(self._config, "train", self._config.sequence_length, trained_s)
        if self._fabric.global_rank:
            return
        if self._init is not None:
            self._init.note_other_interval(self._data.frame_interval_s, self._config.data)
        train = self._config.train
        test = open_data(self._config, "test", self._config.model.n_past + train.eval_horizon, trained_s)
        refuse_too_large(self._config, min(train.eval_sequences, len(test)), self._fabric.device)
        self._held_out = held_out(test, train.eval_sequences)
        self._descriptions = f"data: {self._data.description}\nheld out: {test.description}"
        self._training_data = measure_training_data(self._data, self._config.train.description)
        train_files = files_fingerprint(self._data)
        test_files = files_fingerprint(test)
        if self._init is not None:
            self._init.warn_if_trained_on(test, test_files)
        start = self._resumed or self._init  # a resumed run knows the clips of its start
        self._trained_clips = all_trained_clips(
            trained_clips(self._data, train_files, test, test_files), start.trained_clips if start is not None else {}
        )
        self._data_files = {}
        if train_files is not None and test_files is not None:
            self._data_files = {"train": train_files.of_all, "test": test_files.of_all}
            warn_about_copies(self._data, train_files, test, test_files)
        if self._resumed is not None:
            refuse_other_data(self._out, self._resumed, self._training_data, self._data_files)
        resolved(self._out).mkdir(parents=True, exist_ok=True)  # a link may lead to a folder that does not exist yet
        self._lock.hold()
        if self._resumed is None:
            refuse_existing(self._out)  # another command may have made it while the data was decoded

    def _train(self) -> None:
        fabric, train = self._fabric, self._config.train
        sampler = StepSampler(
            count=len(self._data),
            batch_size=train.batch_size,
            steps=self._length.steps_from(self._step),
            seed=train.seed,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        )
        loader = training_loader(self._data, sampler, self._machine.workers, pin_memory=fabric.device.type == "cuda")
        total = None if self._length.timed else train.steps
        journal = Journal(
            self._out, total, self._step, active=fabric.global_rank == 0, owes_evaluation=owes_evaluation(self._resumed)
        )
        with journal as self._journal, self._stop_signals():
            if fabric.global_rank == 0:
                self._journal.log(f"{self._descriptions}\n{self._machine_description()}")
            self._length.start()
            if owes_evaluation(self._resumed) and self._make_up_evaluation():
                return
            for frames in loader:
                self._train_step(frames)
                last = self._length.is_over(self._step)
                self._after_step(last)
                if last:
                    break

    def _make_up_evaluation(self) -> bool:
        """Make the one that was given up when the run was stopped. Returns whether it was the end of the run."""
        self._length.agree(*mean_over_processes(self._fabric, [self._length.measured_s()]))
        last = self._length.is_over(self._step)
        self._evaluate_and_save(evaluation_due=True, save_due=True, last=last)
        return last

    def _machine_description(self) -> str:
        fabric = self._fabric
        processes = f", {fabric.world_size} processes" if fabric.world_size > 1 else ""
        precision = precision_name(fabric)
        before = saved_precision(self._resumed)
        changed = "" if before in (None, precision) else f"\nprecision: the run began in {before}; its losses change with it"
        return f"model: {_count(self._raw)} parameters, {fabric.device}, {precision}{processes}{changed}"

    def _build(self) -> None:
        torch.manual_seed(self._config.train.seed)
        train = self._config.train
        raw = self._initial_model()
        if raw.channels_last:
            raw.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._loss_scaling = LossScaling(self._fabric)
        optimizer = torch.optim.Adam(raw.parameters(), lr=train.lr, fused=not self._loss_scaling.in_use)
        self._length = RunLength(train, elapsed_s(self._resumed))
        self._schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._length.learning_rate)
        self._average = self._averaged(raw)
        if self._fabric.world_size > 1:
            synchronize_norms(raw, self._fabric.device)
        model, wrapped_optimizer = self._fabric.setup(raw, optimizer)
        self._model = model
        self._optimizer = wrapped_optimizer
        self._raw = raw  # the same parameters without the wrappers, whose names would get into checkpoints
        self._step = 0
        self._best = float("-inf")
        self._calibrated_at = -1
        self._evaluation_due = False
        self._saved_at = self._resumed.step if self._resumed else None
        self._evaluation: Evaluation | None = None
        self._evaluated_at = -1
        if self._resumed is not None:
            self._restore(self._resumed)

    def _averaged(self, raw: VideoModel) -> AveragedModel | None:
        """A copy for the averaged weights, if any. The first process evaluates it alone: its norms must not wait for others."""
        decay = self._config.train.ema_decay
        if not decay or self._fabric.global_rank:
            return None
        average = AveragedModel(raw, multi_avg_fn=warming_average(decay), use_buffers=True).to(self._fabric.device)
        _lay_out_together(average)
        if self._init is not None:
            average.n_averaged.fill_(warm_up_steps(decay))  # nothing random to forget
        return average

    def _initial_model(self) -> VideoModel:
        """A new model, or one that starts from the weights of another run."""
        if self._init is None:
            return FAMILIES[self._config.model.family].build(self._config.model)
        return Checkpoint(self._config, self._init.weights).build()

    def _train_step(self, frames: Tensor) -> None:
        # 1) forward pass, with noise that depends on the step alone: that of this process's share of the batch
        train, fabric = self._config.train, self._fabric
        x = to_unit(fabric.to_device(frames))
        draws, size = self._config.model.training_noise(x.shape[0])
        noise = step_noise((draws, train.batch_size, size), train.seed, self._step, self._config.model.shared_noise)
        share = share_of_batch(train.batch_size, fabric.global_rank, fabric.world_size)
        self._model.train()
        output = self._model(x, noise[:, share].to(fabric.device), self._step)
        # 2) loss (paper, equation 3) and its gradient, which are means over all processes
        loss = output.mse + train.beta_at(self._step) * output.kl
        if output.auxiliary is not None:
            loss = loss + output.auxiliary
        fabric.backward(loss)
        norm = fabric.clip_gradients(self._model, self._optimizer, max_norm=train.gradient_clip, error_if_nonfinite=False)
        assert norm is not None
        terms = {"loss": loss, "mse": output.mse, **self._other_terms(output)}
        *means, elapsed_s = mean_over_processes(
            fabric, [*(float(value.detach()) for value in terms.values()), self._length.measured_s()]
        )
        self._losses = {**dict(zip(terms, means, strict=True)), "grad_norm": float(norm)}
        if not math.isfinite(means[0]) or self._loss_scaling.note_gradient(float(norm)):
            self._optimizer.zero_grad()
            raise self._diverged(f"loss or gradient is not finite at step {self._step + 1} (loss {means[0]})")
        # 3) update the weights, the learning rate and the averaged weights
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._length.agree(elapsed_s)
        self._schedule.step()
        if self._average is not None:
            self._average.update_parameters(self._raw)
        self._step += 1

    def _disk_is_full(self, error: OSError) -> FullDiskError:
        place = self._out if error.filename is None else os.fsdecode(error.filename)
        return FullDiskError(
            f"cannot write '{place}': {error.strerror}\n"
            f"  free some space, then continue from the last save with: svg-train --out {shell_argument(self._out)} --resume"
        )

    def _diverged(self, what: str) -> DivergedError:
        """With what there is to go back to: a model that was evaluated, or a state from which at least one step went well."""
        good = (self._out / BEST).exists() or self._saved_at not in (None, self._step)
        kept = f"the last good checkpoint is kept in {self._out}" if good else "no good checkpoint was saved"
        here = "" if self._fabric.global_rank else f"{kept}; "  # only the first process saves
        advice = "start again with another --out and a lower --lr, or with --precision 32-true"
        return DivergedError(f"{what}\n  {here}{advice}")

    def _other_terms(self, output: TrainingOutput) -> dict[str, Tensor]:
        """The terms of the loss that a model has beside the mean squared error."""
        terms = {"kl": output.kl} if self._config.model.noise_dim else {}
        return terms if output.auxiliary is None else {**terms, "auxiliary": output.auxiliary}

    def _after_step(self, last: bool) -> None:
        step, train = self._step, self._config.train
        self._journal.step(step, self._losses["loss"], self._length.share(step))
        if step % LOG_EVERY == 0 or step == 1 or last:
            self._journal.record("train", step, {**self._losses, "lr": float(self._schedule.get_last_lr()[0])})
        evaluation_due = step % train.eval_every == 0
        save_due = step % train.save_every == 0 or self._length.has_to_be_saved
        self._evaluate_and_save(evaluation_due=evaluation_due or last, save_due=save_due or last, last=last)

    def _evaluate_and_save(self, evaluation_due: bool, save_due: bool, last: bool) -> None:
        """What is due after a step. If the run is stopped, an evaluation is left for the run that continues this one."""
        self._evaluation_due = evaluation_due and not self._evaluate()
        (stop,) = true_in_any(self._fabric, [self._stop_requested])
        if save_due or stop:
            began_s = self._length.measured_s()
            all_or_none(self._fabric, self._save_last)
            self._length.note_save(*mean_over_processes(self._fabric, [began_s, self._length.measured_s()]))
        if self._evaluation_due or (stop and not last):
            raise StoppedError(
                f"stopped at step {self._step}, saved\n  continue with: svg-train --out {shell_argument(self._out)} --resume"
            )

    def _evaluate(self) -> bool:
        """The first process forecasts the held-out sequences, draws them and saves the best model; the others wait.

        Returns:
            Whether it was done, the same in all processes. It is given up if a signal stops one of them.
        """
        model = all_or_none(self._fabric, self._evaluated_model)
        evaluation, stopped = self._forecast_held_out(model)
        if not stopped:
            all_or_none(self._fabric, lambda: self._keep_evaluation(model, evaluation))
        return not stopped

    def _forecast_held_out(self, model: VideoModel) -> tuple[Evaluation | None, bool]:
        """In the first process, the evaluation unless it was given up; and whether one of the processes is stopped."""
        is_first, train = self._fabric.global_rank == 0, self._config.train
        evaluation: Evaluation | None = None
        stopped = is_over = False
        self._may_give_up = True
        while not is_over:  # the others hear of the first one as often as it looks
            if is_first:
                with suppress(_GivenUpError):
                    evaluation = evaluate(
                        model=model,
                        sequences=self._held_out,
                        samples=train.eval_samples,
                        horizon=train.eval_horizon,
                        look=self._give_up_if_stopped(),
                    )
                self._may_give_up = False
            stopped, is_over = true_in_any(self._fabric, [self._stop_requested, is_first])
        self._may_give_up = False
        return evaluation, stopped

    def _give_up_if_stopped(self) -> Callable[[], None]:
        """A function that raises `_GivenUpError` once this process is stopped, or, as it learns every second, another one."""
        learned_at = time.monotonic()

        def look() -> None:
            nonlocal learned_at
            stopped = self._stop_requested
            if self._fabric.world_size > 1 and not stopped and time.monotonic() - learned_at > _LOOK_EVERY_S:
                stopped, _ = true_in_any(self._fabric, [self._stop_requested, False])
                learned_at = time.monotonic()
            if stopped:
                raise _GivenUpError

        return look

    def _keep_evaluation(self, model: VideoModel, evaluation: Evaluation | None) -> None:
        if evaluation is None:  # not the first process
            return
        self._evaluation = evaluation
        self._evaluated_at = self._step
        metrics = evaluation.metrics()
        self._journal.record("eval", self._step, metrics)
        if not all(map(math.isfinite, metrics.values())):
            raise self._diverged(f"the held-out forecasts are not finite at step {self._step}")
        picture = save_strips(self._out / STRIPS, f"step-{self._step:07d}", evaluation.examples, model.config.n_past)
        self._journal.picture("held out", self._step, picture)
        self._journal.log(_summary(self._step, metrics))
        if metrics[SCORE] > self._best:
            self._best = metrics[SCORE]
            self._save(BEST, model.state_dict(), training=None)

    def _evaluated_model(self) -> VideoModel:
        """The weights that are evaluated and saved: the averaged ones, if any, with BatchNorm statistics of their own.

        Averaged weights produce activations of smaller variance than the weights that were averaged, so statistics averaged
        along with them would blur the pictures (Izmailov et al., "Averaging Weights Leads to Wider Optima", section 3.2).
        """
        if self._average is None:
            return self._raw
        assert isinstance(self._average.module, VideoModel)
        if self._calibrated_at != self._step:  # a step that evaluates often saves too
            update_bn(self._calibration_batches(), _OnFrames(self._average.module))
            self._calibrated_at = self._step
        return self._average.module

    def _calibration_batches(self) -> Iterator[Tensor]:
        """The first training batches, always the same, so that a resumed run saves the same statistics."""
        batches = StepSampler(len(self._data), self._config.train.batch_size, range(BN_BATCHES), self._config.train.seed)
        for indices in batches:
            yield to_unit(collate([self._data[index] for index in indices]).to(self._fabric.device))

    def _save_last(self) -> None:
        if self._fabric.global_rank != 0:
            return
        training = {
            "weights": self._raw.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "averaged": int(self._average.n_averaged) if self._average is not None else 0,
            "best": self._best,
            "elapsed_s": self._length.elapsed_s,
            "precision": precision_name(self._fabric),
            "loss_scaling": self._loss_scaling.state_dict(),
            "data_files": self._data_files,
            "evaluation_due": self._evaluation_due,
        }
        self._save(LAST, self._evaluated_model().state_dict(), training)
        self._saved_at = self._step

    def _save(self, name: str, weights: dict[str, Tensor], training: dict[str, object] | None) -> None:
        if not _all_finite([*weights.values(), *self._raw.state_dict().values()]):
            raise self._diverged(f"weights are not finite after step {self._step}")
        evaluated = self._evaluation if self._evaluated_at == self._step else None  # earlier ones are of other weights
        checkpoint = Checkpoint(
            config=self._config,
            weights=weights,
            step=self._step,
            frame_interval_s=self._data.frame_interval_s,
            metrics=evaluated.metrics() if evaluated else {},
            training=training,
            training_data=self._training_data,
            trained_clips=self._trained_clips,
        )
        save_checkpoint(self._out / name, checkpoint)

    def _restore(self, checkpoint: Checkpoint) -> None:
        training = checkpoint.training
        assert training is not None
        try:
            self._raw.load_state_dict(training["weights"])
            self._optimizer.load_state_dict(training["optimizer"])
            self._schedule.load_state_dict(training["schedule"])
            self._loss_scaling.load_state_dict(training.get("loss_scaling", {}))
            if self._average is not None:
                self._average.module.load_state_dict(checkpoint.weights)
                self._average.n_averaged.fill_(training["averaged"])
        except Exception as error:  # wrong tables can raise anything
            if is_out_of_memory(error):
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise CheckpointError(
                f"the training state in '{self._out / LAST}' does not fit its model ({reason})\n"
                f"  fine-tune the model that the run has saved: --init {shell_argument(self._out / BEST)} and another --out"
            ) from error
        self._step = checkpoint.step
        self._best = best_so_far(self._out, checkpoint) if self._fabric.global_rank == 0 else training["best"]

    @contextmanager
    def _stop_signals(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM and SIGHUP end the run after the step or in the evaluation in progress; a second one at once."""

        def request(number: int, frame: FrameType | None) -> None:
            ignore_next_hangup(number)
            if self._stop_requested:
                raise KeyboardInterrupt
            self._stop_requested = True
            if self._fabric.local_rank == 0:
                when = "stopping; this evaluation is left for --resume" if self._may_give_up else "stopping after this step"
                print(f"{when}; press Ctrl-C again to stop at once without saving", file=sys.stderr)

        old = {number: signal.signal(number, request) for number in stop_signals()}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


class _OnFrames(torch.nn.Module):
    """The training forward as a function of frames alone, as `update_bn` calls it."""

    def __init__(self, model: VideoModel) -> None:
        super().__init__()
        self._model = model

    def forward(self, x: Tensor) -> None:
        draws, size = self._model.config.training_noise(x.shape[0])
        self._model(x, step_noise((draws, x.shape[1], size), 0, 0).to(x.device))


def _lay_out_together(model: torch.nn.Module) -> None:
    """A copy's recurrent weights are apart in memory, and cuDNN would gather them again at every call."""
    for module in model.modules():
        if isinstance(module, torch.nn.LSTM):
            module.flatten_parameters()


def _divisors(size: int) -> str:
    return ", ".join(str(number) for number in range(1, size + 1) if size % number == 0)


def _all_finite(weights: list[Tensor]) -> bool:
    return all(bool(torch.isfinite(weight).all()) for weight in weights)


def _count(model: torch.nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f} M"


def _summary(step: int, metrics: dict[str, float]) -> str:
    return (
        f"step {step}: held-out PSNR best {metrics['psnr_best']:.2f} dB, sample {metrics['psnr_sample']:.2f} dB, "
        f"repeat-last {metrics['psnr_repeat']:.2f} dB, gain {metrics['gain']:+.2f} dB"
    )
