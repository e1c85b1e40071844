"""The proof that a converted folder is the original model: what the files hold, then what both models compute."""
