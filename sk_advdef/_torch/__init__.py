"""All that knows torch and skorch; importing this package loads neither."""
