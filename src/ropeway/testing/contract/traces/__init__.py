"""What is gone leaves no trace; what comes again comes whole."""
