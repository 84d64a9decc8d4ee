"""Starting runs through Kubeflow Pipelines' API so that a repetition finds the run instead of making another."""
