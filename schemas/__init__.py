"""What the rooms agree on: types and contracts, no logic of any room.

recipe         all of a run, loaded from YAML
parts          the parts of a recipe
fields         every field of a recipe, for people
delivery_file  which snapshots of a source were delivered
tables         every Delta table: columns, types, meanings, checks
manifest       the shards' manifest and the plan of stages
errors         what is wrong with data, said by a name of its own
training       the shape of the model and how it is optimised
presets        shapes of models by name
strict_yaml    YAML with every key once and nothing guessed
store          files in an object store, by URL
files          JSON values written whole or not at all, told apart by a hash, and where two differ
"""
