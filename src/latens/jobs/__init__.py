"""Work on many files by many processes: frozen lists, shards, journals, engines. It knows no verb and no system."""
