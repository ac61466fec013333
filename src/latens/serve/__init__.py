"""The HTTP service of `latens serve`: admission, workers, answers. It knows no verb and no system."""
