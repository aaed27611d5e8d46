"""Who makes the tasks of a study: this process, local workers, or a Ray cluster."""
