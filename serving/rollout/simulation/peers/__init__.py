"""Other ways to decide a canary, as their documentation and source describe them, on the same windows."""
