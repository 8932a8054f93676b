"""Where a layout's masks come from, besides drawn ones."""
