"""What can be asked: one class a family, with its options, checks, words, stored form and search."""
