-- Every primary key and unique key starts with tenant_id, so that the schema shards by tenant.
-- User ids compare as bytes (collate "C") whatever the locale of the database.

create table tenants (
    tenant_id  uuid primary key,
    name       text not null,
    status     text not null default 'active' check (status in ('active', 'suspended', 'deleting')),
    -- What was set for the tenant; ours, so jsonb: its allowed_origins are looked up.
    config     jsonb not null default '{}',
    created_at timestamptz not null
);
create index tenants_allowed_origins on tenants using gin ((config -> 'allowed_origins'));

create table tenant_keys (
    tenant_id    uuid not null references tenants,
    key_id       text collate "C" not null,
    secret_hash  text not null,
    name         text,
    created_at   timestamptz not null,
    last_used_at timestamptz,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    primary key (tenant_id, key_id)
);
-- A key is looked up before its tenant is known. Its 71 random bits make it unique.
create index tenant_keys_by_id on tenant_keys (key_id);

create table rooms (
    tenant_id    uuid not null references tenants,
    room_id      uuid not null,
    type         text not null check (type in ('dm', 'group', 'channel')),
    unique_key   text collate "C",
    name         text,
    -- json, not jsonb: it comes back to the letter.
    metadata     json,
    first_seq    bigint not null default 1,
    last_seq     bigint not null default 0,
    last_change  bigint not null default 0,
    member_count integer not null default 0,
    created_by   text collate "C",
    created_at   timestamptz not null,
    updated_at   timestamptz not null,
    -- The time of the newest message, else of the making. Not indexed, so that a message's update
    -- of this row stays heap-only; the hour is, for the list of all rooms of a tenant.
    active_at    timestamptz not null,
    active_hour  integer not null,
    primary key (tenant_id, room_id)
) with (fillfactor = 50);
create unique index rooms_by_unique_key on rooms (tenant_id, unique_key) where unique_key is not null;
create index rooms_by_activity on rooms (tenant_id, active_hour);

create table room_members (
    tenant_id     uuid not null,
    user_id       text collate "C" not null,
    room_id       uuid not null,
    role          text not null check (role in ('admin', 'member')),
    joined_at     timestamptz not null,
    delivered_seq bigint not null default 0,
    read_seq      bigint not null default 0,
    receipt_at    timestamptz not null,
    primary key (tenant_id, user_id, room_id),
    foreign key (tenant_id, room_id) references rooms on delete cascade
) with (fillfactor = 70);
create unique index room_members_by_room on room_members (tenant_id, room_id, user_id);

create table messages (
    tenant_id         uuid not null,
    room_id           uuid not null,
    seq               bigint not null,
    message_id        uuid not null,
    sender_id         text collate "C" not null,
    content           text not null,
    meta              json,
    client_message_id text collate "C",
    reply_to          uuid,
    created_at        timestamptz not null,
    edited_at         timestamptz,
    deleted_at        timestamptz,
    -- The room's change number of the latest edit or deletion.
    change            bigint,
    primary key (tenant_id, room_id, seq)
);
create unique index messages_by_id on messages (tenant_id, message_id);
create unique index messages_by_client_id on messages (tenant_id, room_id, sender_id, client_message_id)
    where client_message_id is not null;
create unique index messages_changed on messages (tenant_id, room_id, change) where change is not null;
create index messages_deleted on messages (tenant_id, room_id, seq) where deleted_at is not null;

-- Rooms that are gone, whose messages are still to be erased in small steps.
create table erased_rooms (
    tenant_id uuid not null,
    room_id   uuid not null,
    primary key (tenant_id, room_id)
);

-- First answers, for requests with an Idempotency-Key. The operator's are under the nil tenant.
create table idempotency_keys (
    tenant_id    uuid not null,
    caller       text collate "C" not null,
    path         text collate "C" not null,
    key          text collate "C" not null,
    fingerprint  bytea not null,
    -- The id of whatever the request makes, so that running it again after a crash makes no second.
    subject_id   uuid not null,
    locked_until timestamptz not null,
    status       smallint,
    body         bytea,
    created_at   timestamptz not null,
    -- The room or message the answer shows: it is erased with it.
    room_id      uuid,
    message_id   uuid,
    primary key (tenant_id, caller, key, path)
);
create index idempotency_keys_by_age on idempotency_keys (created_at);
create index idempotency_keys_by_message on idempotency_keys (tenant_id, message_id) where message_id is not null;
create index idempotency_keys_by_room on idempotency_keys (tenant_id, room_id) where room_id is not null;

-- One row, written to find out whether the database can be written.
create table health (
    id         boolean primary key default true check (id),
    written_at timestamptz not null
);
insert into health (written_at) values (now());
