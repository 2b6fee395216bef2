"""From published measurements to step-time profiles: read, compose, fit, write. Needs `brim[profiling]`."""
