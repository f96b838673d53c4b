-- Webhooks: what a tenant's endpoint is to be told. Both tables name rooms and messages and hold
-- nothing of what they say: what is erased cannot be told any more, nor be found here.

-- The smallest id of now with random bits behind it: a UUIDv7.
create function new_id() returns uuid language sql volatile parallel safe as
    $$ select (left(first_id(clock_timestamp())::text, 14) || '7' || substr(gen_random_uuid()::text, 16))::uuid $$;

-- What happened, written in the transaction that made it true; until a node takes it. No reference
-- to the tenant: checking it would lock the tenant's row for each message.
create table outbox (
    tenant_id  uuid not null,
    event_id   uuid not null,
    event      text not null,
    room_id    uuid,
    message_id uuid,
    -- Whom it is about, where it is about users, and the role they got.
    user_ids   text[] collate "C",
    role       text,
    at         timestamptz not null,
    primary key (tenant_id, event_id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- One call to an endpoint, until it was answered or given up.
create table deliveries (
    tenant_id   uuid not null,
    event_id    uuid not null,
    event       text not null,
    room_id     uuid,
    message_id  uuid,
    -- As above; of a new message its recipients.
    user_ids    text[] collate "C",
    role        text,
    at          timestamptz not null,
    attempts    integer not null default 0,
    -- When it is tried (again). While it is tried, the end of its lease: a node that dies leaves it
    -- to be tried by another then.
    due_at      timestamptz not null,
    last_status smallint,
    last_error  text,
    -- Since when it is a dead letter.
    failed_at   timestamptz,
    primary key (tenant_id, event_id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
create index deliveries_due on deliveries (tenant_id, due_at) where failed_at is null;
create index dead_letters_by_tenant on deliveries (tenant_id, event_id) where failed_at is not null;
create index dead_letters on deliveries (event_id) where failed_at is not null;
create index dead_letters_by_age on deliveries (failed_at) where failed_at is not null;

-- Whether the user's last connection to the node has gone, though for some seconds the user counts
-- as online: nobody knows yet whether another one comes.
alter table presence add column leaving boolean not null default false;
