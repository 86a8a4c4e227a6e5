"""Pictures of an explosion and of the atlas."""
