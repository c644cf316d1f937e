"""What training runs did: tables, figures, and differences between seeds."""
