"""Use of the machine: threads, number formats, processes, devices and locks."""
