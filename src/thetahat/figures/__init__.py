"""Pictures, over plotting libraries; what they show comes as arrays and words."""
