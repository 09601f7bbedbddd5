"""The fault suite: real parts broken at every step of the loop, and a checker that must not find a difference."""
