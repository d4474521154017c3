"""From raw text to shards: read, measure, judge, mix, tokenise and pack, on Spark; no model code and no scheduler."""
