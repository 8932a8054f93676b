"""How much memory a run will need, estimated before any weight is loaded."""
