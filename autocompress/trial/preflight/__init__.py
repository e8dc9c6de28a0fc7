"""Whether the input is what the user thinks, found out in seconds before anything is searched.

`looking` has the order of things, `judging` what is decided from the numbers.
"""
