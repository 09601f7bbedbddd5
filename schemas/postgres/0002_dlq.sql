-- What operators did with DLQ records: replayed or discarded. A record without a row here is open.
--
-- Holds where a record came from and nothing of what it said, so it belongs to no tenant; the trail by tenant is in
-- `audit`, written in the same transaction. One action an entry, ever: a record that fails again after its replay is
-- an entry of its own, since it has an offset of its own.
CREATE TABLE dlq_actions (
    topic_id text NOT NULL CHECK (length(topic_id) <= 64),
    topic text NOT NULL CHECK (length(topic) <= 249),
    source_partition integer NOT NULL CHECK (source_partition >= 0),
    source_offset bigint NOT NULL CHECK (source_offset >= 0),
    action text NOT NULL CHECK (action IN ('replayed', 'discarded')),
    actor text NOT NULL CHECK (actor <> '' AND length(actor) <= 200),
    at timestamptz NOT NULL DEFAULT now(),
    reason text NOT NULL DEFAULT '' CHECK (length(reason) <= 500),
    PRIMARY KEY (topic, source_partition, source_offset, topic_id)
);
COMMENT ON COLUMN dlq_actions.topic_id IS 'the incarnation of the topic: a re-created one counts from offset 0 again';
COMMENT ON COLUMN dlq_actions.reason IS 'why, in the operator''s words; never a person''s';

GRANT SELECT, INSERT ON dlq_actions TO afluente;
