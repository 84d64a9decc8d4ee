"""The film demo: real ratings in, a better model promoted, two bad ones taken back."""
