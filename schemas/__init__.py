"""What the rooms agree on: types and contracts, no logic of any room.

recipe    all of a run, loaded from YAML
parts     the parts of a recipe
fields    every field of a recipe, for people
tables    every Delta table: columns, types, meanings, checks
manifest  the shards' manifest and the plan of stages
training  the shape of the model and how it is optimised
errors    what a command says of data that does not do
files     JSON values written whole or not at all, told apart by a hash, and where two differ
"""
