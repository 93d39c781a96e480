DROP TABLE people_faces;
DROP TABLE people;
