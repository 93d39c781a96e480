-- People whom the operator has enrolled, and their faces' embeddings. Made only where a gallery is wanted: it needs the
-- extension `vector`, and holds biometric data. The pictures themselves are not kept.
-- depends:

CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE people (
    id           uuid        PRIMARY KEY,
    create_time  timestamptz NOT NULL,
    display_name text        NOT NULL CHECK (display_name <> ''),
    -- On what grounds, and where the pictures come from.
    consent      text        NOT NULL CHECK (consent <> ''),
    source       text        NOT NULL
);

CREATE INDEX people_by_name ON people (display_name, id);

CREATE TABLE people_faces (
    person_id     uuid        NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    position      integer     NOT NULL,
    -- Of the picture's file.
    sha256        text        NOT NULL CHECK (length(sha256) = 64),
    -- Embeddings of two versions of the network cannot be compared.
    model_version text        NOT NULL,
    -- Of length 1: the inner product is the cosine of the angle.
    embedding     vector(512) NOT NULL,
    PRIMARY KEY (person_id, position)
);

-- Hierarchical navigable small worlds (Malkov & Yashunin 2018, 10.1109/TPAMI.2018.2889473).
CREATE INDEX people_faces_by_likeness ON people_faces USING hnsw (embedding vector_ip_ops) WITH (m = 16, ef_construction = 64);
