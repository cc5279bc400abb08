"""An adaptation from beginning to end: record, train, compare, export, report. What is done already is not done again."""

from __future__ import annotations

import errno
import logging
import math
import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svg_adapt.adaptation_options import CameraRecording, refuse_for_recording
from svg_adapt.adaptation_report import as_text, verdict, write_text
from svg_adapt.adaptation_stage import STATE, exported_bundle, read_stage, write_stage
from svg_adapt.comparison import SEQUENCES, Comparison, compare
from svg_adapt.kept_video import KeptVideo
from svg_adapt.recorded_source import RecordedSource, view_options
from svg_adapt.recorder import Recorder
from svg_adapt.recording import Facts, Recording, frames_cache, how_to_delete, make_private, read_facts
from svg_common.errors import FULL_DISK, ExitCode, OutputError, SvgError, UsageError, first_line
from svg_common.files import resolved
from svg_common.folder_lock import FolderLock
from svg_common.path_advice import shell_argument
from svg_common.printable import one_line
from svg_common.progress import ProgressDisplay
from svg_common.quantities import duration_text, size_text
from svg_eval.measure import Settings
from svg_export.bundle_writer import write_bundle
from svg_runtime.bundle.reader import EMBEDDED_FOLDER
from svg_runtime.errors import SourceLostError
from svg_runtime.live.events import EventLog
from svg_runtime.live.sources import SourceOptions, open_source
from svg_runtime.live.stop import StopRequest
from svg_train.checkpoint import load_checkpoint
from svg_train.config import Config, build_config
from svg_train.config_options import check_data_options
from svg_train.data import open_data
from svg_train.data.video import require_something_to_train_on, split_for
from svg_train.initial_weights import require_same_shape
from svg_train.machine import Machine
from svg_train.processes import LostLoaderError
from svg_train.recipe_files import load_recipe
from svg_train.reference.checkpoint import load_any_checkpoint, load_with_sha256
from svg_train.run_folder import BEST, LAST, RECORDING
from svg_train.saved_run import is_complete, refuse_existing
from svg_train.shipped_models import shipped_models
from svg_train.train import FullDiskError, StoppedError, Trainer

_LOG = logging.getLogger(__name__)
_DEFAULT_INTERVAL_S = 0.1  # of a start that has none
_GO_ON = "\n  continue with the same command and --resume"


class RecordingStoppedError(SvgError):
    """The recording was stopped by a signal; what was recorded is kept."""

    exit_code = ExitCode.INTERRUPTED


@dataclass(frozen=True)
class Adaptation:
    """What to adapt, to what, and how."""

    start: Path  # checkpoint
    out: Path  # folder of the run
    recipe: str
    overrides: dict[str, dict[str, Any]]  # the user's settings, by table
    machine: Machine
    resume: bool
    record: CameraRecording | None  # None: the clips of data.root

    @property
    def start_name(self) -> str:
        """The name of the model that it starts from."""
        return self._shipped_name or self.start.name

    @property
    def init(self) -> str:
        """What --init says of it."""
        return self._shipped_name or str(self.start)

    @property
    def _shipped_name(self) -> str | None:
        return next((name for name, path in shipped_models().items() if path == self.start), None)


def adapt(request: Adaptation) -> dict[str, Any]:
    """Adapt a model, and print what was gained. Returns the report as plain values.

    Raises:
        UsageError: the folder has another run, or settings contradict each other.
        RecordingStoppedError, StoppedError: Ctrl-C, SIGTERM or SIGHUP; it can be continued.
        SourceLostError: the camera is gone; it can be continued.
        FullDiskError: a file cannot be written; it can be continued.
        FolderInUseError: another process records or trains into the folder.
        SvgError, OSError: unusable data, checkpoint or folder.
    """
    lock = FolderLock(request.out)
    lock.hold()
    try:
        return _adapt_in(request, lock)
    except (OSError, SvgError) as error:
        _say_what_is_kept(error, request.out)
        raise
    except KeyboardInterrupt:  # outside the stages that end in order
        if read_stage(request.out) not in (None, "done"):
            _LOG.warning("what was recorded and trained is kept%s", _GO_ON)
        raise
    finally:
        lock.release()


def _say_what_is_kept(error: OSError | SvgError, out: Path) -> None:
    """Raise the error of a write again, with how to go on, if anything is kept to go on with.

    Raises:
        FullDiskError: the disk is full, or an output cannot be written.
    """
    cause = error if isinstance(error, OSError) else error.__cause__
    number = cause.errno if isinstance(cause, OSError) else None
    full = number in FULL_DISK
    if not (full or isinstance(error, OutputError | FullDiskError)):
        return
    try:
        if read_stage(out) in (None, "done"):
            return
    except SvgError:  # the disk fails altogether: that is for the first error to say
        return
    place = os.fsdecode(getattr(error, "filename", None) or out)
    problem = f"cannot write '{place}': {error.strerror}" if isinstance(error, OSError) else first_line(error)
    denied = number in (errno.EACCES, errno.EPERM, errno.EROFS)
    advice = "free some space" if full else "make it writable" if denied else "check the disk"
    raise FullDiskError(f"{problem}\n  what was recorded and trained is kept; {advice}{_GO_ON}") from error


def _adapt_in(request: Adaptation, lock: FolderLock) -> dict[str, Any]:
    """Adapt in a folder that `lock` holds for this process, if it exists yet."""
    out = request.out
    try:
        _check_folder(request)
    except UsageError:
        lock.hold()  # another command, which has made the folder since, is what is in the way
        raise
    config = _configuration(request)
    if not (out / LAST).exists():  # killed before its first save: it begins again
        (out / BEST).unlink(missing_ok=True)  # its own, see _check_folder
    # 1) record
    if request.record is not None:
        _record(request.record, config, out, lock)
        _require_enough(out, config)
    else:
        config = _split_clips(config, out)
        open_data(config, "test", _evaluated(config))  # what training would refuse, before there is a folder
    # 2) train on all but the last part
    _train(request, config, lock)
    # 3) compare on that part
    write_stage(out, "comparing")
    settings = Settings(
        sequences=SEQUENCES,
        samples=config.train.eval_samples,
        horizon=config.train.eval_horizon,
        seed=config.train.seed,
        samples_option="--eval-samples",
        horizon_option="--eval-horizon",
    )
    with ProgressDisplay() as display:
        comparison = compare(
            adapted=out / BEST,
            start=request.start,
            start_name=request.start_name,
            data=config.data,
            settings=settings,
            device=request.machine.device,
            progress=display,
        )
        # 4) export, if it is worth it
        bundle = exported_bundle(out)
        if not comparison.reasons_against:
            _export(out, bundle, display)
    # 5) report
    return _report(request, comparison, bundle)


def _check_folder(request: Adaptation) -> None:
    out, stage = request.out, read_stage(request.out)
    if stage == "done":
        raise UsageError(f"the adaptation in '{out}' is complete: {out / STATE}\n  start a new one with another --out")
    facts = read_facts(out / RECORDING)
    if request.record is not None and facts is None and stage is not None and (out / LAST).exists():
        raise UsageError(
            f"the adaptation in '{out}' has no recording to go on with: it was deleted, or there was none\n"
            "  start a new one with another --out"
        )
    if not request.resume and (stage is not None or facts is not None):
        raise UsageError(
            f"'{out}' already contains an adaptation that is not complete{_GO_ON}, or choose another --out"
            f"\n  its recording, if any, is deleted with: {how_to_delete(out)}"
        )
    if stage is None and (out / LAST).exists():
        raise UsageError(f"'{out}' already contains a run that is not an adaptation\n  choose another --out")
    if stage != "training" and not (out / LAST).exists():
        refuse_existing(out)  # a model there is not from this adaptation: it saves none before that stage
    if any((out / name).exists() and request.start.samefile(out / name) for name in (BEST, LAST)):
        raise UsageError(f"--init '{request.init}' would be replaced by the run in '{out}'\n  choose another --out")


def _configuration(request: Adaptation) -> Config:
    """Model, weight of the KL term and time per step of the start, then the recipe, then the user's settings."""
    start, recipe = load_any_checkpoint(request.start), load_recipe(request.recipe)
    given, in_recipe = request.overrides["data"], recipe.get("data")
    table = in_recipe if isinstance(in_recipe, dict) else {}  # build_config refuses what is not a table
    if request.record is not None:
        refuse_for_recording(request.recipe, table)
    data: dict[str, Any] = {"name": "video"}
    times = {"frame_interval_s"} if request.record is not None else {"frame_interval_s", "frame_step"}  # a step of pictures
    if times.isdisjoint({*given, *table}):
        data["frame_interval_s"] = start.frame_interval_s or _DEFAULT_INTERVAL_S
    if request.record is not None:
        folder = request.out / RECORDING
        data |= {"root": str(folder), "split_by": "end", "cache": str(frames_cache(folder))}
    check_data_options(given.get("name", "video"), given)
    known = {
        "model": start.config.model.after_training().model_dump(),
        "train": {"beta": start.config.train.beta, "description": f"adapted from {one_line(request.start_name)}"},
    }
    config = build_config(known, recipe, {"data": data}, request.overrides)
    if config.data.name != "video":
        raise UsageError(f"--data {config.data.name} is not a recording\n  adapt a model to videos: --source or --data-root")
    # what training would refuse, before anything is recorded
    request.machine.accelerator()
    require_something_to_train_on(config.data)
    require_same_shape(start.config.model, config.model, request.init)
    return config


# ---- 1) record ----


def _record(record: CameraRecording, config: Config, out: Path, lock: FolderLock) -> None:
    interval_s, recorded_source = config.data.frame_interval_s, RecordedSource.of(record.source, record.roi)
    assert interval_s is not None  # _configuration and the options see to it
    lock.hold()  # another command may have begun to record meanwhile, and what it writes is not complete yet
    facts, again = read_facts(out / RECORDING), False
    if facts is not None:
        facts.require(out / RECORDING, recorded_source, interval_s)
        complete = facts.has(record.wanted_s)
        again = complete and _is_to_be_recorded_again(facts, record, config, out)
        if complete and not again:
            return
        _refuse_more(facts, record, out)
    least_s = _least_s(config)
    if record.wanted_s < least_s:
        raise UsageError(f"--record {_exactly(record.wanted_s)} is too short to adapt to\n  expected {_why(least_s, config)}")
    events = EventLog(announce=lambda message: _LOG.info("%s", message))
    side = min(config.model.height, config.model.width)
    with StopRequest() as stop:
        stop.start_graceful_stop()
        try:
            source = open_source(options=record.source, interval_s=interval_s, image_size=side, stop=stop, events=events)
        except SourceLostError as error:
            if facts is None:
                raise
            raise _kept(error) from error
        with closing(source), ProgressDisplay() as display:  # only now: a camera that is not there leaves no folder behind
            make_private(out)
            lock.hold()
            recording = Recording(out / RECORDING, recorded_source, interval_s, record.limit_bytes)
            write_stage(out, "recording")
            if record.source.path is not None or again:
                recording.restart()
            _LOG.info(
                "recording %s of %s into %s, up to %s; it stays on this machine, and is deleted with: %s",
                duration_text(record.wanted_s), recording.facts.source, recording.folder, size_text(record.limit_bytes),
                how_to_delete(out),
            )  # fmt: skip
            try:
                recorder = Recorder(recording, source, side=side, least_s=least_s, roi=record.roi)
                recorder.record(record.wanted_s, stop, display)
            except SourceLostError as error:
                raise _kept(error) from error
    kept = KeptVideo.read(recording.folder, recording.facts)
    recorded = f"{_recorded_text(recording.facts, kept)}, {size_text(recording.size_bytes)}"
    if stop:
        raise RecordingStoppedError(f"stopped after recording {recorded}{_GO_ON}")
    _LOG.info("recorded %s", recorded)


def _kept(error: SourceLostError) -> SourceLostError:
    """The error of a source of which there is a recording already, with how to go on."""
    return SourceLostError(f"{error}\n  what was recorded is kept{_GO_ON}")


def _refuse_more(facts: Facts, record: CameraRecording, out: Path) -> None:
    """Once training has begun, more would move what is held out."""
    if (out / LAST).exists():
        raise UsageError(
            f"--record {_exactly(record.wanted_s)} is longer than what '{out}' trains on: "
            f"{_exactly(facts.recorded_s)}\n  give the same --record as before, or choose another --out"
        )


def _is_to_be_recorded_again(facts: Facts, record: CameraRecording, config: Config, out: Path) -> bool:
    """Whether a complete recording is useless because of its limit, and there is a larger one now."""
    if (out / LAST).exists():
        return False
    kept, reached = KeptVideo.read(out / RECORDING, facts), facts.reached_limit_bytes
    if _is_enough(kept, config) or not kept.gave_way:
        return False
    return reached is None or reached < record.limit_bytes


def _require_enough(out: Path, config: Config) -> None:
    """Refuse a recording whose held-out part has no sequence to evaluate on, before the training that would fail.

    The same command would end in the same way again, so the exit code is one after which a service is not started again.
    """
    facts, least_s = read_facts(out / RECORDING), _least_s(config)
    if facts is None or (out / LAST).exists() or _is_enough(kept := KeptVideo.read(out / RECORDING, facts), config):
        return
    recorded, deleted = _recorded_text(facts, kept), f"this recording is deleted with: {how_to_delete(out)}"
    if kept.gave_way:
        reached = facts.reached_limit_bytes
        limit = "--record-limit" if reached is None else f"--record-limit {size_text(reached)}"
        problem = f"{limit} is too small: of {facts.source}, it left too little to adapt to: {recorded}"
        advice = f"record it again with a larger --record-limit and --resume, or with another --out; {deleted}"
    elif facts.recorded_s < least_s:
        problem = f"{facts.source} ended after {_exactly(facts.recorded_s)}: too short to adapt to"
        advice = f"take a longer one, with another --out; {deleted}"
    else:
        problem = f"{facts.source} was recorded in pieces that are too short to adapt to: {recorded}"
        advice = f"record it without interruptions, or for longer, with another --out; {deleted}"
    raise UsageError(f"{problem}\n  expected {_why(least_s, config)}\n  {advice}")


def _is_enough(kept: KeptVideo, config: Config) -> bool:
    interval_s = config.data.frame_interval_s or _DEFAULT_INTERVAL_S
    return kept.longest_held_out_s(config.data.test_fraction) > (_evaluated(config) - 0.5) * interval_s


def _recorded_text(facts: Facts, kept: KeptVideo) -> str:
    recorded = duration_text(facts.recorded_s)
    return f"{recorded}, of which the last {duration_text(kept.seconds)} are kept" if kept.gave_way else recorded


def _least_s(config: Config) -> float:
    """The shortest recording whose held-out part has one sequence to evaluate on."""
    pictures = math.ceil(_evaluated(config) / config.data.test_fraction)
    return pictures * (config.data.frame_interval_s or _DEFAULT_INTERVAL_S)


def _evaluated(config: Config) -> int:
    return config.model.n_past + config.train.eval_horizon


def _why(least_s: float, config: Config) -> str:
    held_out = f"the last {config.data.test_fraction:.0%} are held out"
    needed = f"an evaluation needs {_evaluated(config)} pictures in one segment"
    return f"at least {_exactly(least_s)}: {held_out}, and {needed}"


def _exactly(seconds: float) -> str:
    """Not rounded to what it is compared with."""
    return f"{round(seconds, 3):.10g} s"


# ---- 2) train ----


def _split_clips(config: Config, out: Path) -> Config:
    """The settings with what to hold out of clips, if nobody says so: the end of each, or, of short ones, of all together."""
    if config.data.split_by is not None:
        return config
    if (out / LAST).exists():
        split_by = load_checkpoint(out / LAST).config.data.split_by  # else frames that were held out would be trained on
    elif (split_by := split_for(config, _evaluated(config))) == "end":
        held_out = f"the last {config.data.test_fraction:.0%}"
        _LOG.info(
            "note: %s of most clips are less than the %d pictures of an evaluation: held out are %s of all clips together, "
            "in the order of their names (--split-by end)", held_out, _evaluated(config), held_out,
        )  # fmt: skip
    return config.model_copy(update={"data": config.data.model_copy(update={"split_by": split_by})})


def _train(request: Adaptation, config: Config, lock: FolderLock) -> None:
    out = request.out
    resolved(out).mkdir(parents=True, exist_ok=True)  # a link may lead to a folder that does not exist yet
    lock.hold()
    saved = load_checkpoint(out / LAST) if (out / LAST).exists() else None
    if saved is not None:
        _refuse_other_settings(saved.config, config, out)
        if is_complete(saved):
            return
    write_stage(out, "training")
    init = request.start if saved is None else None
    try:
        places = {"root": config.data.root, "cache": config.data.cache} if saved is not None else None
        Trainer(config=config, out=out, machine=request.machine, resume=saved is not None, init=init, places=places).run()
    except (StoppedError, LostLoaderError) as error:
        problem, _, _ = str(error).rpartition("\n")  # the last line is what to do with a run of its own
        raise type(error)(problem + _GO_ON) from error


def _refuse_other_settings(saved: Config, given: Config, out: Path) -> None:
    free = {"data": {"root", "cache"}, "train": {"description"}}  # they may have moved; earlier versions have no description
    before, now = (config.model_dump(exclude=free) for config in (saved, given))
    different = [
        f"  {table}.{name}: saved {value}, given {now[table].get(name)}"
        for table, values in before.items()
        for name, value in values.items()
        if now[table].get(name) != value
    ]
    if different:
        raise UsageError(
            f"the run in '{out}' has other settings:\n" + "\n".join(different)
            + "\n  continue with the command that started it and --resume, or choose another --out"
        )  # fmt: skip


# ---- 4) and 5) export and report ----


def _export(out: Path, bundle: Path, display: ProgressDisplay) -> None:
    checkpoint, sha256 = load_with_sha256(out / BEST)
    write_bundle(
        checkpoint=checkpoint,
        checkpoint_sha256=sha256,
        out=bundle,
        fp16=False,
        progress=display,
    )


def _report(request: Adaptation, comparison: Comparison, bundle: Path) -> dict[str, Any]:
    out, record = request.out, request.record
    facts = read_facts(out / RECORDING) if record is not None else None
    kept = KeptVideo.read(out / RECORDING, facts) if facts is not None else None
    checkpoint = load_checkpoint(out / BEST)
    text = "\n\n".join(
        [
            as_text(comparison),
            verdict(
                comparison=comparison,
                bundle=bundle,
                checkpoint=out / BEST,
                start=_start_advice(request),
                source=_source_argument(request),
                recorded_s=facts.recorded_s if facts is not None else None,
                kept_s=kept.seconds if kept is not None and kept.gave_way else None,
                has_ended=facts is not None and facts.ended,
            ),
        ]
    )
    values = {
        **comparison.as_json(),
        "bundle": None if comparison.reasons_against else str(bundle),
        "checkpoint": str(out / BEST),
        "step": checkpoint.step,
        "recording": None if facts is None or kept is None else _recording_as_json(facts, kept),
    }
    write_text(out, text)
    write_stage(out, "done", **values)
    print(text)
    if facts is not None:
        print(f"the recording is kept in {out / RECORDING}; delete it with: {how_to_delete(out)}")
    return values


def _recording_as_json(facts: Facts, kept: KeptVideo) -> dict[str, Any]:
    """Without what tells cameras and segments apart."""
    return {**facts.model_dump(exclude={"address", "segments_s"}), "kept_s": kept.seconds}


def _start_advice(request: Adaptation) -> str:
    """The command that runs the model that the adaptation started from."""
    source = _source_argument(request)
    if (EMBEDDED_FOLDER / f"{request.start_name}.svgb").exists():
        return f"svg-live --model {request.start_name} {source}"
    exported = shell_argument(request.start.with_suffix(".svgb").name)
    return f"svg-export {shell_argument(request.start)} && svg-live --model {exported} {source}"


def _source_argument(request: Adaptation) -> str:
    """How svg-live is given the camera and the view of it, without a password; of clips, a camera to be named."""
    record = request.record
    if record is None:
        return "--camera 0"
    return f"{_named_source(record.source)} {view_options(record.source, record.roi)}".rstrip()


def _named_source(source: SourceOptions) -> str:
    if source.camera is not None:
        return f"--camera {source.camera}"
    if source.path is None and not source.is_synthetic:  # an address: what it hides, its owner knows
        return f"--source {str(source.source).partition(':')[0]}://..."
    return f"--source {shell_argument(str(source.source))}"
