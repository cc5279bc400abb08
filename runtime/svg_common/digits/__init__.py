"""Synthetic video: digits drawn procedurally, bouncing as in Stochastic Moving MNIST. Nothing to download."""

from svg_common.digits.glyphs import draw_digit
from svg_common.digits.motion import DIGIT_SIZE, BouncingDigits, digit_stream

__all__ = ["DIGIT_SIZE", "BouncingDigits", "digit_stream", "draw_digit"]
