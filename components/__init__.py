"""The steps of a pipeline: step.py holds the logic, __main__.py a command, component.py the KFP component."""
