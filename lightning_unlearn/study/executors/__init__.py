"""Executors: run the tasks of a study in this process, in local workers, or on a Ray cluster."""
