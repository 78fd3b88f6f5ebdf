"""Uncertainty of stored metrics: intervals, paired tests, calibration, decisions, and the points of curves."""

from __future__ import annotations

from busistore.stats.areas import Areas, Difference, area_difference, area_interval, delong, newcombe
from busistore.stats.calibration import (
    BrierParts,
    brier_parts,
    calibration_intercept,
    calibration_slope,
    ece_equal_mass,
)  # fmt: skip
from busistore.stats.conformal import check_confidence, conformal_threshold, prediction_sets
from busistore.stats.crossed import TwoWay, paired, two_way
from busistore.stats.curves import reliability_curve, roc_curve
from busistore.stats.decision import net_benefit, treat_all, treat_none
from busistore.stats.intervals import Interval, mean_interval
from busistore.stats.means import grouped_mean
from busistore.stats.multiplicity import holm, least_p, most_comparisons, unreachable
from busistore.stats.resampling import cluster_bootstrap, image_weights
from busistore.stats.signed_ranks import wilcoxon
from busistore.stats.weighted import WEIGHTED, resampled

__all__ = [
    "WEIGHTED", "Areas", "BrierParts", "Difference", "Interval", "TwoWay", "area_difference", "area_interval",
    "brier_parts", "calibration_intercept", "calibration_slope", "check_confidence", "cluster_bootstrap",
    "conformal_threshold", "delong", "ece_equal_mass", "grouped_mean", "holm", "image_weights", "least_p",
    "mean_interval", "most_comparisons", "net_benefit", "newcombe", "paired", "prediction_sets", "reliability_curve",
    "resampled", "roc_curve", "treat_all", "treat_none", "two_way", "unreachable", "wilcoxon",
]  # fmt: skip
