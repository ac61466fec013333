"""Video codecs with a region of interest (003, chapter 6 and appendix D)."""
