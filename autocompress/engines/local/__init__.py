"""The third engine: trials run in this process, one after the other, with functions that the user hands over."""
