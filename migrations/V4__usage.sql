-- What each tenant used. It outlives its tenant, for the bill, so it refers to none.

-- What the nodes counted in memory and add every few seconds: a row an hour and node.
create table usage (
    tenant_id        uuid not null,
    hour             timestamptz not null,
    node_id          uuid not null,
    requests         bigint not null,
    rate_limited     bigint not null,
    message_bytes    bigint not null,
    events_delivered bigint not null,
    peak_connections bigint not null,
    webhook_attempts bigint not null default 0,
    primary key (tenant_id, hour, node_id)
);

-- Messages sent, exactly, without a row that every message updates. As long as an hour is open its
-- messages are counted where they are, by their ids, which begin with the time; those that were
-- erased meanwhile are counted here. Once it is closed the total stands here.
create table messages_sent (
    tenant_id uuid not null,
    hour      timestamptz not null,
    erased    bigint not null default 0,
    total     bigint,
    primary key (tenant_id, hour)
);

-- Until when a tenant's hours are closed.
alter table tenants add column counted_until timestamptz not null default '-infinity';
create index tenants_by_counted_until on tenants (counted_until);

-- Who was active: a row a user and day, with a bit for each hour. They go in steps before their
-- tenant does; the cascade is for a node of the version before, which does not know of them.
create table active_users (
    tenant_id uuid not null references tenants on delete cascade,
    day       date not null,
    user_id   text collate "C" not null,
    hours     integer not null,
    primary key (tenant_id, day, user_id)
) with (fillfactor = 70);

-- The smallest id that can be made at a moment, and when an id was made: UUIDv7 begins with the
-- milliseconds.
create function first_id(at timestamptz) returns uuid language sql immutable parallel safe as
    $$ select (lpad(to_hex(greatest(0, floor(extract(epoch from at) * 1000))::bigint), 12, '0')
               || '00000000000000000000')::uuid $$;
create function hour_of_id(id uuid) returns timestamptz language sql immutable parallel safe as
    $$ select to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 3600000 * 3600) $$;

-- Which rooms have something to be erased by age.
create index tenants_with_retention on tenants (tenant_id) where config ? 'retention_days';
