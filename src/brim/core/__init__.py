"""The pure part: who runs, with how many tokens, in which blocks.

No clock, network, device, environment or dice: the same calls give the same decisions under
simulated time, over the embedded engine and inside another host. Standard library only, and
nothing is imported here, so that one file can be used (and tested) without the others. `batch` has a table
of the words for a request that does not run; `decide` lists the phases of a decision.
"""
