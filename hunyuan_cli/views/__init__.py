"""What commands show: tables, screens and progress, one file a subject."""
