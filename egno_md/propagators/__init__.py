"""Maps from a state to the segment that follows it."""
