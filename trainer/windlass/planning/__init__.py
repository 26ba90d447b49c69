"""Will it fit, and how long will it take."""
