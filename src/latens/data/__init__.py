"""Reading and writing pictures, and finding the files a user names."""
