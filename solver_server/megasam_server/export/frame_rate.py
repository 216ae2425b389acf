"""Frame rates as scene files name them."""

from __future__ import annotations

from fractions import Fraction

MAYA_TIME_UNITS = {
    Fraction(15): "game",
    Fraction(24): "film",
    Fraction(25): "pal",
    Fraction(30): "ntsc",
    Fraction(48): "show",
    Fraction(50): "palf",
    Fraction(60): "ntscf",
    Fraction(24000, 1001): "23.976fps",
    Fraction(30000, 1001): "29.97fps",
    Fraction(48000, 1001): "47.952fps",
    Fraction(60000, 1001): "59.94fps",
    Fraction(100): "100fps",
    Fraction(120): "120fps",
}


def exact_frame_rate(fps: float) -> Fraction:
    """The frame rate that a rounded number such as 23.976 or 29.97 stands for.

    Whole rates and the NTSC family n * 1000/1001 are recognised within 0.005 %; any other rate is
    kept.
    """
    for rate in (Fraction(round(fps)), Fraction(round(fps) * 1000, 1001)):
        if rate and abs(fps / float(rate) - 1) < 5e-5:
            return rate
    return Fraction(fps).limit_denominator(10_000)


def maya_time_unit(fps: Fraction) -> str:
    """Maya's name of the frame rate; the nearest one it has a name for when there is none.

    Keys lie on frame numbers, so a neighbouring name moves no key to another frame.
    """
    return MAYA_TIME_UNITS[min(MAYA_TIME_UNITS, key=lambda rate: abs(rate - fps))]
