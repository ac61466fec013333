"""Video codecs with a region of interest (Perugachi-Diaz 2024, chapter 6 and appendix D)."""
