"""Methods: what is fitted on cached embeddings. To add one: a file here, a line in METHODS."""

from __future__ import annotations

from busistore.methods.base import PROTOCOLS, Labelled, Method, Outcome, n_groups, with_parameters
from busistore.methods.knn import KNearest
from busistore.methods.linear_probe import LinearProbe
from busistore.methods.prototype import Prototype

METHODS = {m.name: m for m in (LinearProbe, KNearest, Prototype)}

__all__ = ["METHODS", "PROTOCOLS", "Labelled", "Method", "Outcome", "n_groups", "with_parameters"]
