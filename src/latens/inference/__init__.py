"""Choice of device, batches over folders, and exact processing of large pictures in strips."""
