"""The configuration: from the command line and its YAML files to checked values."""
