"""What `quire bench` measures, and how: workloads, clocks, the machine's own limits, peers beside us."""
