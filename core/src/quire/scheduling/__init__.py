"""Who runs, and where its keys and values lie: host integers only. `Scheduler` is the door."""
