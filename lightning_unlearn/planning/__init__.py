"""What a run needs, told beforehand: memory of each GPU, work, time and disk, without weights."""
