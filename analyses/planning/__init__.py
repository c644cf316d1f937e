"""From a scaling law to the next training run: shapes, tokens, rates, memory and hours."""
