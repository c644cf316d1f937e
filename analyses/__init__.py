"""Tables and figures, one module a question; nothing here prints or saves."""
