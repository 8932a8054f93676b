"""The method of the paper: sampling (Figure 2), multipath (Figure 3), alignment, injection, refinement."""
