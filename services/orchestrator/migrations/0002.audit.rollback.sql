DROP TABLE audit;
DROP INDEX analyses_by_fingerprint;
ALTER TABLE analyses DROP COLUMN decision, DROP COLUMN edit_decision, DROP COLUMN fingerprint;
