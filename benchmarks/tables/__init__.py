"""Tables of scores: data sets, methods and how a run of one on the other is scored."""
