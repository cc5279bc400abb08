"""What to install where OpenCV lacks something."""

from __future__ import annotations

GSTREAMER_ADVICE = (  # a virtual environment sees neither of them by itself, and one from PyPI in it goes first
    "use the system's OpenCV, which has it: JetPack's, or sudo apt install python3-opencv\n"
    "make the environment with python3 -m venv --system-site-packages .venv\n"
    "uninstall in it what is from PyPI: pip uninstall -y opencv-python opencv-python-headless"
)
