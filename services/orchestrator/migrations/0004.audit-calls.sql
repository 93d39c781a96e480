-- Pictures that the older APIs look at: who had what looked at, where no analysis is kept.
-- depends: 0003.batches

ALTER TABLE audit DROP CONSTRAINT audit_action_check;
ALTER TABLE audit ADD CONSTRAINT audit_action_check CHECK (action IN ('analyze', 'repeat', 'delete', 'call'));
ALTER TABLE audit ALTER COLUMN analysis_id DROP NOT NULL;
