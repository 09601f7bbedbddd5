"""Tests of this folder, as a package."""
