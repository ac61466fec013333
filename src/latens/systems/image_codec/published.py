"""Numbers printed in 003, chapter 5: true rate-distortion loss on Kodak at lambda 0.01, to stand beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

LAMBDA = 0.01  # of every table
TAUS = (0.2, 0.4, 0.6, 0.8, 1.0)  # highest temperatures of Table 5.4.1
EARLY = 500  # steps; the first number of every pair in Table 5.4.3
TARGETS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)  # section 5.4.5

TABLE_5_4_1: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "atanh": (0.7445, 0.7408, 0.7412, 0.7416, 0.7418),
        "linear": (0.7458, 0.7406, 0.7390, 0.7386, 0.7386),
        "cosine": (0.7496, 0.7414, 0.7393, 0.7387, 0.7384),
        "ssl": (0.7578, 0.7409, 0.7391, 0.7383, 0.7380),
    }
)
TABLE_5_4_2: Mapping[float, float] = MappingProxyType(
    {0.01: 1.1500, 0.3: 0.7528, 0.65: 0.7410, 0.8: 0.7396, 1.0: 0.7386, 4 / 3: 0.7380, 1.6: 0.7382, 2.25: 0.7388, 5.0: 0.7415}
)
TABLE_5_4_3: Mapping[tuple[str, int], tuple[float, float]] = MappingProxyType(
    {
        ("linear", 2): (0.7552, 0.7386),
        ("linear", 3): (0.7517, 0.7380),
        ("cosine", 2): (0.7512, 0.7384),
        ("cosine", 3): (0.7513, 0.7379),
        ("ssl", 2): (0.7524, 0.7380),
        ("ssl", 3): (0.7504, 0.7380),
    }
)
