"""Bundles that come with the package: `egno-md inspect` lists them."""
