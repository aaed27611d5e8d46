"""Studies: many runs that share what they can."""
