"""Example projects; `slipway init NAME` copies one."""
