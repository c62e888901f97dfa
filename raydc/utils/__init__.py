"""What any room may use: files, precision, places where tests kill a process."""
