"""The commands of `mhc-properties`, a file each: options, help, what it does. `properties.cli` lists them."""
