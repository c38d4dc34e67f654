"""The tables of the README and the docs, one file per benchmark."""
