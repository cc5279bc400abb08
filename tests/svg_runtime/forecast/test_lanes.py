"""Cameras are divided among lanes so that each sample is forecast once, and only by batches that are bound."""

from __future__ import annotations

import threading

import pytest

from svg_runtime.forecast.lanes import Lanes, bound_sizes, divide


@pytest.mark.parametrize("by_samples", [False, True])
@pytest.mark.parametrize("lanes", [1, 2, 3, 8])
@pytest.mark.parametrize("samples", [1, 2, 5, 8])
def test_every_sample_of_every_camera_has_one_part(lanes, samples, by_samples):
    for count in range(1, 12):
        sizes = bound_sizes(12, lanes, samples)
        cameras = list(range(20, 20 + count))
        parts = divide(camera_numbers=cameras, lanes=lanes, samples=samples, sizes=sizes, by_samples=by_samples)
        given = [
            (camera, sample) for part in parts for camera in part.camera_numbers for sample in range(samples)[part.samples]
        ]
        assert sorted(given) == [(camera, sample) for camera in cameras for sample in range(samples)]
        assert {len(part.camera_numbers) for part in parts} <= set(sizes)
        assert {part.lane for part in parts} <= set(range(lanes))


def test_lanes_have_equal_work():
    parts = divide(camera_numbers=[0, 1, 2], lanes=2, samples=8, sizes=bound_sizes(4, 2, 8), by_samples=True)
    work = [0, 0]
    for part in parts:
        work[part.lane] += len(part.camera_numbers) * len(range(8)[part.samples])
    assert work == [12, 12]


@pytest.mark.parametrize(("cameras", "samples", "most"), [(3, 1, 1), (7, 1, 2), (3, 2, 2), (3, 8, 6)])
def test_cameras_are_divided_by_samples_only_where_that_is_less_work(cameras, samples, most):
    """The only future of a deterministic model cannot be divided: one lane would run all cameras that are left over."""
    sizes = bound_sizes(8, lanes=4, samples=samples)
    work = [0] * 4
    for part in divide(camera_numbers=range(cameras), lanes=4, samples=samples, sizes=sizes, by_samples=True):
        work[part.lane] += len(part.camera_numbers) * len(range(samples)[part.samples])
    assert max(work) == most


def test_a_gpu_has_one_batch_of_all_and_a_core_small_ones():
    assert bound_sizes(7, lanes=1, samples=8) == [7, 4, 2, 1]
    assert bound_sizes(8, lanes=1, samples=8) == [8, 4, 2, 1]
    assert bound_sizes(1, lanes=1, samples=8) == [1]
    assert bound_sizes(100, lanes=2, samples=8) == [2, 1]
    assert bound_sizes(100, lanes=2, samples=64) == [1]
    assert bound_sizes(3, lanes=8, samples=1) == [1]


def test_all_lanes_end_before_an_error_is_raised():
    lanes, ended, begun = Lanes(2), [], threading.Event()

    def fail() -> None:
        begun.wait(10)  # the other lane is at work at the same time
        raise ValueError("of the first lane")

    def work() -> None:
        begun.set()
        ended.append(threading.current_thread() is not threading.main_thread())

    with pytest.raises(ValueError, match="of the first lane"):
        lanes.run({0: [fail], 1: [work, work]})
    assert ended == [True, True]
    with pytest.raises(ValueError, match="of the first lane"):
        lanes.run({0: [work], 1: [fail]})
    lanes.close()
