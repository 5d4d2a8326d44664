"""What backends on a host's own processors share: processor, options, device, hooks. A backend adds its manifest."""
