"""Steps of families: of each that has any a subclass of `properties.core.deviant.Deviant`, listed by slot in STEPS."""
