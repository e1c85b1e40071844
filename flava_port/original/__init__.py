"""The original FLAVA, rebuilt in plain torch. It shares nothing with the port that it judges; `seeded` makes its weights."""
