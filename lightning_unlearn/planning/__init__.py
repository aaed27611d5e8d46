"""Plans: memory per GPU, work, time and disk space of a run, estimated without weights."""
