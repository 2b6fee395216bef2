"""Events in, figures out: one definition of TTFT, ITL, TPOT, E2E and attainment for every engine."""
