"""TFDS builders of data sets that TFDS itself does not have; importing one registers its name."""
