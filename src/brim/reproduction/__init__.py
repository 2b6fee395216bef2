"""Published experiments, run again in virtual time: each claim beside what was measured."""
