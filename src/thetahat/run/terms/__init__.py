"""What a step adds to the likelihood, each apart from it: the balance of experts, tokens behind the next one."""
