"""Prices of model calls: the user's own price file, then the public list (genai-prices), asked for the call's time."""

from __future__ import annotations

from .book import Charge, PriceBook
from .explanation import Explanation, UnitPrice, plain
from .rates import Stepped, Term

__all__ = ["Charge", "Explanation", "PriceBook", "Stepped", "Term", "UnitPrice", "plain"]
