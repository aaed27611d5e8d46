"""Who makes the nodes of a study: this process, local workers, or a Ray cluster."""
