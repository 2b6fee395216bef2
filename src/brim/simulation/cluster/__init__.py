"""Many replicas behind a router, in virtual time."""
