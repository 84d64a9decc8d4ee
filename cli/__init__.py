"""The `slipway` command: one verb a module, imported only when it is called."""
