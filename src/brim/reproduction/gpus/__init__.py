"""How many GPUs DistServe needs, and how many EconoServe and Brim, at the same load and targets."""
