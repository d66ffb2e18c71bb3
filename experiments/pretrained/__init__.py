"""Other people's trained weights: fetched from where they were published, renamed, and used as a float run of ours."""
