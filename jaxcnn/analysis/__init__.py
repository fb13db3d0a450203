"""What a model is and what a run did: tables and figures."""
