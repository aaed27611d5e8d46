"""Worked examples of one's own methods and monitors; named in YAML by class_path."""
