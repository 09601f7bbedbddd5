"""Laws of what the commands say."""
