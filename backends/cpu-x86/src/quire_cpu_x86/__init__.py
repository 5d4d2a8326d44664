"""Quire on x86-64 processors. The manifest is `quire_cpu_x86.manifest`; the hooks are in `quire_cpu_x86.backend`."""
