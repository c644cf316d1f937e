"""What is written for one kind of device, each beside its plain oracle."""
