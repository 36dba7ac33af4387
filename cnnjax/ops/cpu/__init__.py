"""How a CPU runs convolutions and pools; README.md in this folder lists which form runs for which shape, and why."""
