-- Analyses, as they were answered.
-- depends:

CREATE TABLE analyses (
    id           uuid        PRIMARY KEY,
    create_time  timestamptz NOT NULL,
    filename     text        NOT NULL,
    sha256       text        NOT NULL CHECK (length(sha256) = 64),
    -- Serialised pentimento.orchestrator.v1.Analysis, without heat maps.
    analysis     bytea       NOT NULL
);

CREATE INDEX analyses_newest_first ON analyses (create_time DESC, id DESC);
CREATE INDEX analyses_by_content ON analyses (sha256, create_time DESC, id DESC);
