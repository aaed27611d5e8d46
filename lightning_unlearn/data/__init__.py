"""Rows to optimizer steps: recipes, reading, chat format, batch plan, StagedDataModule."""
