"""Mean-scale hyperprior image codec (003, chapter 5)."""
