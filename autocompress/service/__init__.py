"""The HTTP service: searches as jobs of many people, kept in the database that holds the studies."""
