"""The page on which a rollout explains itself, and on which a person stops it or lets it go on."""
