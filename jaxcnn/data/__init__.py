"""Images and labels: where they come from, which of them make a batch, how they are changed."""
