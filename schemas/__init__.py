"""What the rooms agree on: types and contracts, no logic of any room."""
