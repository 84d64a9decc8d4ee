"""The batch_predict step: a bundle's answers for a table of users, or its scores of given pairs."""
