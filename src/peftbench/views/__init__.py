"""What a person reads of the records in a terminal. Free of torch."""
