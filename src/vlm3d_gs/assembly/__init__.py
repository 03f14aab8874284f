"""Where a config becomes objects: guidances, a memory plan, products."""
