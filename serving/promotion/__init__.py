"""Promotion: what a model runs as in an environment is said in Git, and changed there by pull request.

It belongs to serving, as both the command line and the operator ask for it: the command to bring a version forward, the
operator to bring Git back to the version that serves. It knows neither registry nor pipeline: a version comes as
`Candidate`, with everything that a reviewer wants to read.
"""
