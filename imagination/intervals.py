"""Means with their 95% confidence intervals. Imports nothing slow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist, fmean

CONFIDENCE = 0.95
"""The level of every interval."""


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval; null where there are too few values."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def half(self) -> float | None:
        """Half the interval's width."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def text(self, *, places: int = 2) -> str:
        """`0.98 [0.96, 1.00]`; the mean alone where there is no interval; empty without a mean."""
        mean, low, high = (decimals(value, places=places) for value in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]" if low and high else mean

    def columns(self, name: str) -> dict[str, float | None]:
        """The mean under this name, and the bounds under `name_low` and `name_high`."""
        return {name: self.mean, f"{name}_low": self.low, f"{name}_high": self.high}


def decimals(value: float | None, *, places: int = 2, signed: bool = False) -> str:
    """A number with so many decimals, `1,571` or `0.98`; empty for null. A rounded zero has no sign."""
    if value is None:
        return ""
    sign = "+" if signed and round(value, places) > 0 else ""
    return f"{value:{sign}z,.{places}f}"


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean and its interval after Student's t: mean +- t(n - 1) s / sqrt(n)."""
    if len(values) < 2:
        return Interval(fmean(values) if values else None)
    return _interval(fmean(values), math.sqrt(_squared_error(values)), freedom=len(values) - 1)


def ratio_interval(over: Sequence[float], under: Sequence[float]) -> Interval:
    """The mean of `over` divided by the mean of `under`, pairs of one run each, and its interval.

    The interval is the interval of the residuals over_i - ratio * under_i, whose mean is zero, divided by the mean
    of `under`: the ratio estimator's first-order error. Null where the mean of `under` is not positive.
    """
    if not under or fmean(under) <= 0:
        return Interval()
    ratio = fmean(over) / fmean(under)
    if len(over) < 2:
        return Interval(ratio)
    residuals = [above - ratio * below for above, below in zip(over, under, strict=True)]
    return _interval(ratio, math.sqrt(_squared_error(residuals)) / fmean(under), freedom=len(over) - 1)


def _squared_error(values: Sequence[float]) -> float:
    """The squared standard error of the mean of two or more values: their variance over their number."""
    mean = fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)


def _interval(mean: float, error: float, *, freedom: float) -> Interval:
    """The mean +- the standard error, times the quantile of Student's t with `freedom` degrees of freedom."""
    half = quantile(freedom) * error
    return Interval(mean, mean - half, mean + half)


@cache
def quantile(freedom: float) -> float:
    """The t that a Student variable stays within, on both sides, with the probability `CONFIDENCE`."""
    if math.isinf(freedom):
        return NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    # With t = sqrt(freedom) tan(angle), half of the probability is an integral over cos(angle)^(freedom - 1), by
    # Simpson's rule, and Newton's method finds its upper end from below. scipy would take .2 s to import.
    import numpy as np

    density = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    nodes, weights = np.linspace(0, 1, 201), np.array([1, *[4, 2] * 99, 4, 1]) / 600
    angle, step = 0.0, 1.0
    while step > 1e-9 * angle:
        inside = angle * float(weights @ np.cos(angle * nodes) ** (freedom - 1))
        step = (CONFIDENCE / 2 / density - inside) / math.cos(angle) ** (freedom - 1)
        angle += step
    return math.sqrt(freedom) * math.tan(angle)
