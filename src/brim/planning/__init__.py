"""How many GPUs a load needs at its targets, and how much offline work fits beside it."""
