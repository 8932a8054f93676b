"""Many machines: jobs fanned out on Ray (the `ray` extra)."""
