"""How good the faces service is: finders on composed scenes, age and gender on labelled faces, matching strangers."""
