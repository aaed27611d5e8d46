"""What the tables of a study amount to: values without words."""
