"""The laws, one module a family; `properties.law.all_laws` lists them by id."""
