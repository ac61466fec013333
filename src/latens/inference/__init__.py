"""Choice of device, batches over folders, and exact processing of large images in row blocks."""
