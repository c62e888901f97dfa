"""What every room may use: settings, whole files, names that others register, precision, kill points of tests."""
