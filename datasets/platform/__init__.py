"""A generated content platform of any size: users, content, and what happens between them, with known truth."""
