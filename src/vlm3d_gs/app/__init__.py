"""Programs on top of the pipeline: the live viewer, a choice among seeds, the benchmark, the doctor."""
