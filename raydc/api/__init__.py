"""raydc in Python: the commands as functions, the scikit-learn estimator, and names of your own."""
