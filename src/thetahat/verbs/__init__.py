"""What a user does with models and data: one file for each verb."""
