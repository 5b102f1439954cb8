"""Recipes, one YAML file each."""
