-- User tokens, socket tickets, nodes, presence.

-- Signs the tenant's user tokens: 244 random bits. A rewrite of this small table.
alter table tenants
    add column token_secret bytea not null
        default decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'),
    -- Tokens of all its users that were issued before this moment are refused.
    add column tokens_revoked_at timestamptz;

-- The same for one user.
create table token_revocations (
    tenant_id  uuid not null references tenants,
    user_id    text collate "C" not null,
    revoked_at timestamptz not null,
    primary key (tenant_id, user_id)
);
create index token_revocations_by_age on token_revocations (revoked_at);

-- What opens one WebSocket, once. Of the ticket only its SHA-256 is kept.
create table socket_tickets (
    tenant_id        uuid not null references tenants,
    ticket_hash      bytea not null,
    user_id          text collate "C" not null,
    -- What asked for it: a key, or a user token. The socket ends with that.
    key_id           text collate "C",
    token_issued_at  timestamptz,
    token_expires_at timestamptz,
    expires_at       timestamptz not null,
    primary key (tenant_id, ticket_hash)
);
create index socket_tickets_by_expiry on socket_tickets (expires_at);

-- The running servers. One that was not seen for a while is dead, and its users are offline.
create table nodes (
    node_id uuid primary key,
    seen_at timestamptz not null
);

-- Who is online, and where: one row a user and node.
create table presence (
    tenant_id uuid not null,
    user_id   text collate "C" not null,
    node_id   uuid not null,
    primary key (tenant_id, user_id, node_id)
);
create index presence_by_node on presence (node_id);

-- When a user last came or went. Its row is also what orders those who change the user's presence.
create table last_seen (
    tenant_id uuid not null,
    user_id   text collate "C" not null,
    seen_at   timestamptz not null,
    primary key (tenant_id, user_id)
);
