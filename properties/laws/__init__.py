"""The laws, one module a family; `properties.core.law.all_laws` lists them by id."""
