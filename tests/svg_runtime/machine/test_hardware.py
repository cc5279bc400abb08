"""Hardware details, as far as the system reports them."""

from __future__ import annotations

import numpy as np

from svg_runtime.machine.hardware import board, hardware, load_share, simd_flags, system_cpu, versions


def test_simd_flags_and_board_are_recognized(tmp_path):
    assert simd_flags(["smep", "avx2", "fpu", "amx_bf16", "asimdhp"]) == ["amx_bf16", "asimdhp", "avx2"]
    (tmp_path / "model").write_bytes(b"NVIDIA Jetson Orin Nano\0")
    assert board(tmp_path / "model") == "NVIDIA Jetson Orin Nano"
    assert board(tmp_path / "none") is None


def test_the_cpu_name_comes_from_the_system(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text(
        "processor\t: 0\nmodel name\t: Some CPU: fast\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nmodel name\t: Other\n"
    )
    assert system_cpu(file) == {"brand_raw": "Some CPU: fast", "flags": ["fpu", "avx2"]}
    file.write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert system_cpu(file) == {"brand_raw": "", "flags": ["fp", "asimd"]}
    assert system_cpu(tmp_path / "none") == {}


def test_hardware_uses_the_output_of_py_cpuinfo():
    known = hardware({"brand_raw": "Some CPU", "flags": ["avx2", "fpu"]})
    assert (known["cpu"], known["simd"]) == ("Some CPU", ["avx2"])
    assert hardware()["cpu"]
    assert hardware()["cores_usable"] >= 1
    assert versions()["numpy"] == np.__version__


def test_a_load_is_shared_by_all_cores_of_the_machine(monkeypatch):
    """In a container with few of them, too."""
    monkeypatch.setattr("os.cpu_count", lambda: 32)
    monkeypatch.setattr("svg_runtime.machine.hardware.cpu_quota", lambda: 2.0)
    assert load_share(24.0) == 0.75
    assert load_share(None) == 0
