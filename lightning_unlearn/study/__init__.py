"""Studies: many runs of paths, methods, seeds and settings that share trained stages."""
