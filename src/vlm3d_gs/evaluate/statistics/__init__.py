"""What may be concluded from few prompts: intervals, paired tests, agreement of judges."""
