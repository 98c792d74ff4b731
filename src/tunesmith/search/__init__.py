"""Many runs of one recipe, and what they show together."""
