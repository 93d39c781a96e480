-- Filters of lists, analyses that are repeated for the same file, and who had what analysed.
-- depends: 0001.analyses

ALTER TABLE analyses
    -- Numbers of pentimento.orchestrator.v1.Decision and EditDecision.
    ADD COLUMN decision      smallint NOT NULL DEFAULT 0,
    ADD COLUMN edit_decision smallint NOT NULL DEFAULT 0,
    -- Analysis.fingerprint; NULL where the analysis is not to be repeated.
    ADD COLUMN fingerprint   text;

CREATE INDEX analyses_by_fingerprint ON analyses (fingerprint, create_time DESC) WHERE fingerprint IS NOT NULL;

-- Never changed and never deleted by the services: outlives the analyses that it tells of. Holds no file name.
CREATE TABLE audit (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time        timestamptz NOT NULL,
    action      text        NOT NULL CHECK (action IN ('analyze', 'repeat', 'delete')),
    -- Who asked: as the edge identified the caller, or "anonymous".
    caller      text        NOT NULL,
    request_id  text        NOT NULL,
    analysis_id uuid        NOT NULL,
    -- Of the file.
    sha256      text        NOT NULL,
    fingerprint text        NOT NULL,
    -- Detectors, models, policy and calibration that took part, with their versions.
    versions    jsonb       NOT NULL
);

CREATE INDEX audit_by_content ON audit (sha256, time);
CREATE INDEX audit_by_analysis ON audit (analysis_id);
