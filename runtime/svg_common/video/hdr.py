"""HDR and wide-gamut pictures as SDR ones, by a fixed rule.

Light up to 203 cd/m2, the diffuse white of HDR (ITU-R BT.2408), is shown exactly: 203 cd/m2 is white. Brighter light is
scaled down to white with its hue. Colours outside of BT.709 are clipped. The rule looks at one pixel at a time, so that the
brightness of a scene never depends on its brightest point.

Sources: ITU-R BT.2100 (PQ, HLG with a display of 1,000 cd/m2), BT.2087 (BT.2020 to BT.709), IEC 61966-2-1 (sRGB).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

BT2020 = 9  # colour primaries; all numbers are FFmpeg's
_PQ, _HLG = 16, 18
HDR_TRANSFERS = frozenset((_PQ, _HLG))

_DIFFUSE_WHITE = 203.0  # cd/m2
_HLG_PEAK = 1000.0  # cd/m2
_HLG_GAMMA = 1.2
_TABLE_BITS = 12
_BAND = 16  # rows at a time: they stay in the processor's cache
_BT2020_TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
_BT2020_LUMA = np.array([[0.2627, 0.6780, 0.0593]], np.float32)


def to_sdr(image: NDArray[np.uint16], transfer: int, wide_gamut: bool) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) uint16 RGB as uint8 sRGB.

    Args:
        image: as decoded, 65535 for a signal of 1.
        transfer: number of the transfer characteristic. All but PQ and HLG are taken for SDR.
        wide_gamut: whether the primaries are those of BT.2020.
    """
    sdr = np.empty(image.shape, np.uint8)
    for top in range(0, len(image), _BAND):
        band = slice(top, top + _BAND)
        _band_to_sdr(image[band], transfer, wide_gamut, out=sdr[band])
    return sdr


def _band_to_sdr(image: NDArray[np.uint16], transfer: int, wide_gamut: bool, out: NDArray[np.uint8]) -> None:
    # 1) signal to light, 1 for diffuse white
    light: NDArray[Any] = _light_of_signal(transfer).take(image >> (16 - _TABLE_BITS))
    if transfer == _HLG:
        luma = np.maximum(cv2.transform(light, _BT2020_LUMA), 1e-6)
        gain = cv2.pow(luma, _HLG_GAMMA - 1) * np.float32(_HLG_PEAK / _DIFFUSE_WHITE)
        light = cv2.multiply(light, cv2.merge([gain, gain, gain]))
    # 2) primaries
    if wide_gamut:
        light = cv2.transform(light, _BT2020_TO_BT709)
    # 3) what is brighter than white keeps its hue
    red, green, blue = cv2.split(light)
    peak = np.maximum(cv2.max(cv2.max(red, green), blue), 1)
    light = np.maximum(cv2.divide(light, cv2.merge([peak, peak, peak])), 0)
    # 4) light to signal; the square root gives dark colours their share of the table
    index = cv2.sqrt(light) * np.float32(2**_TABLE_BITS - 1) + np.float32(0.5)
    _signal_of_root().take(index.astype(np.uint16), out=out)


@cache
def _light_of_signal(transfer: int) -> NDArray[np.float32]:
    """Table of the light of each signal, as a multiple of diffuse white (HLG: scene light, 0 to 1)."""
    signal = np.linspace(0, 1, 2**_TABLE_BITS)
    if transfer == _PQ:
        root = signal ** (32 / 2523)
        light = 10_000 / _DIFFUSE_WHITE * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (8192 / 1305)
    elif transfer == _HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    else:
        light = np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    return light.astype(np.float32)


@cache
def _signal_of_root() -> NDArray[np.uint8]:
    """Table of the sRGB value of each square root of light."""
    light = np.linspace(0, 1, 2**_TABLE_BITS) ** 2
    signal = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(255 * signal).astype(np.uint8)
