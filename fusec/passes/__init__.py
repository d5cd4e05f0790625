"""Graph in, graph out: rules, levels, schedule, memory, and the plan at the end."""
