-- What was done, and tried, with tenants and keys. It outlives its tenants, so it refers to none.
create table audit_log (
    entry_id   uuid primary key,
    at         timestamptz not null,
    -- `master`, or the id of the tenant's key.
    actor      text not null,
    action     text not null,
    tenant_id  uuid,
    target     text,
    -- The status that was answered.
    outcome    text not null,
    address    text not null,
    request_id text not null
);
create index audit_log_by_tenant on audit_log (tenant_id, entry_id);

-- Entries are added and never changed.
create function audit_log_is_append_only() returns trigger language plpgsql as
    $$ begin raise exception 'the audit log is append-only'; end $$;
create trigger audit_log_is_append_only before update or delete or truncate on audit_log
    for each statement execute function audit_log_is_append_only();
