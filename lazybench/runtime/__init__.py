"""How a computation uses the machine: threads, number formats, processes, devices, locks."""
