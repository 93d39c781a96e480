"""Whatever starts from a face: finding faces, and what each of them says."""
