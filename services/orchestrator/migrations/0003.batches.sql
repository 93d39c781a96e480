-- Batches, and their pictures one by one. The jobs that work on them are procrastinate's (queue_schema.py).
-- depends: 0002.audit

CREATE TABLE batches (
    id             uuid        PRIMARY KEY,
    -- A client's own name for its request, and the digest of what was in it: the same request is accepted once.
    request_id     text        UNIQUE,
    request_digest text        NOT NULL DEFAULT '',
    create_time    timestamptz NOT NULL DEFAULT now(),
    -- When the first picture was taken up; from then on its time counts.
    start_time     timestamptz,
    end_time       timestamptz,
    state          text        NOT NULL DEFAULT 'processing'
                               CHECK (state IN ('processing', 'completed', 'failed', 'interrupted')),
    -- Serialised pentimento.orchestrator.v1.AnalysisOptions.
    options        bytea       NOT NULL,
    webhook_uri    text        NOT NULL DEFAULT '',
    error_message  text        NOT NULL DEFAULT '',
    -- When its uploads are to be deleted; NULL once they are, or if there are none.
    expire_time    timestamptz,
    CHECK ((state = 'processing') = (end_time IS NULL))
);

CREATE INDEX batches_newest_first ON batches (create_time DESC, id DESC);
CREATE INDEX batches_processing ON batches (start_time) WHERE state = 'processing';
CREATE INDEX batches_expiring ON batches (expire_time) WHERE expire_time IS NOT NULL;

CREATE TABLE batch_items (
    batch_id      uuid        NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
    position      integer     NOT NULL,
    filename      text        NOT NULL,
    -- Where the picture is: in the object store, or to be fetched.
    object_key    text,
    uri           text,
    state         text        NOT NULL DEFAULT 'waiting'
                              CHECK (state IN ('waiting', 'running', 'analyzed', 'failed')),
    -- How often a worker took it up without giving it back: a picture that brings its workers down is given up.
    attempts      integer     NOT NULL DEFAULT 0,
    start_time    timestamptz,
    end_time      timestamptz,
    -- In `analyses`, as long as it is kept there.
    analysis_id   uuid,
    error_reason  text        NOT NULL DEFAULT '',
    error_message text        NOT NULL DEFAULT '',
    job_id        bigint,
    PRIMARY KEY (batch_id, position),
    CHECK (state <> 'analyzed' OR analysis_id IS NOT NULL)
);

CREATE INDEX batch_items_unfinished ON batch_items (batch_id) WHERE state IN ('waiting', 'running');
CREATE INDEX batch_items_by_analysis ON batch_items (analysis_id) WHERE analysis_id IS NOT NULL;
