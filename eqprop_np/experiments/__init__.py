"""The experiments on top of the library: named presets and systems."""
