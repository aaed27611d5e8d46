"""Examples of a user's own methods and monitors; YAML refers to them by class_path."""
