"""Between what a latency target lies, in milliseconds: the least is a nanosecond."""

LEAST_MS = 1e-6
LIMIT_MS = 1e9  # below this
WITHIN = f"from {LEAST_MS:f} to below {LIMIT_MS:.0f}"
