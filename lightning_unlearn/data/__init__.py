"""From rows to optimizer steps: recipes, files, chat format, batch plan, StagedDataModule."""
