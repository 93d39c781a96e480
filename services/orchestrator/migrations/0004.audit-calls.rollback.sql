DELETE FROM audit WHERE action = 'call';
ALTER TABLE audit ALTER COLUMN analysis_id SET NOT NULL;
ALTER TABLE audit DROP CONSTRAINT audit_action_check;
ALTER TABLE audit ADD CONSTRAINT audit_action_check CHECK (action IN ('analyze', 'repeat', 'delete'));
