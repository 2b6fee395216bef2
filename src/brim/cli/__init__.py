"""The commands. The only room that reads flags, the environment and configuration files."""
