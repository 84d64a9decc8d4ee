"""What the parts of Slipway hand to each other. Standard library, pydantic and YAML only."""
