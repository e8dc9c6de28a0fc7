"""One trial, in its own process or in this one."""
