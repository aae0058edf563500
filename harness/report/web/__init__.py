"""The page and the page of the trend, each one HTML file."""
