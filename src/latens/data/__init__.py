"""Reading and writing images, and finding the files a user names."""
