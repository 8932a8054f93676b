"""Results for people: tables, plots, pages and user studies."""
