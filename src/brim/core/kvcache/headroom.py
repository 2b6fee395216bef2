"""How much of the KV cache offline requests may hold beside the online ones."""

from __future__ import annotations

from brim.core.estimators.online_demand import OnlineDemand


class Headroom:
    """Keeps room for the online requests that are expected, not only for those that are here.

    `online_blocks` is always what they hold. Cached blocks that nobody references are held by nobody.
    """

    def __init__(self, num_blocks: int, demand: OnlineDemand) -> None:
        self.num_blocks = num_blocks
        self.demand = demand

    def offline_limit(self, online_blocks: int) -> int:
        """Blocks that offline requests may hold: to be asked before they take more.

        While online requests take what was forecast for them it stays as it is; beyond, it falls. A forecast
        takes nothing back: a preemption loses work, and the burst may not come.
        """
        return max(self.num_blocks - max(online_blocks, self.demand.forecast_blocks), 0)
