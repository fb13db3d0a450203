"""Images and labels: where they come from, which make batch k, how they are changed."""
