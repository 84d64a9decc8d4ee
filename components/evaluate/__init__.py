"""The evaluate step: how good is a model on what was held out, and does it pass the gates."""
