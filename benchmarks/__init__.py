"""The benchmark room: what the pipeline costs, beside a floor that no loader can pass and beside other loaders."""
