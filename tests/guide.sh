#!/usr/bin/env bash
# Types the commands of the users' guide "Setting Up Tenants", unchanged but for the ids and keys
# they return, against a server on localhost:8080, and checks each answer.
#
# MASTER_API_KEY (and DEFAULT_RATE_LIMIT, if set) must be the server's; it takes the place of the guide's "your-master-key-here".
set -euo pipefail

fail() {
    echo "guide.sh: $*" >&2
    exit 1
}

# field NAME: the text of a field of the last answer
field() {
    sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" <<<"$answer" | head -n 1
}

expect() {
    [[ $answer =~ $1 ]] || fail "expected $1 in: $answer"
}

# 1. Generate a Master API Key: the two ways give a key that the server takes.
openssl rand -hex 32 | grep -qE '^[0-9a-f]{64}$' || fail "openssl gives no key"

# 3. Create a Tenant
answer=$(curl -X POST http://localhost:8080/admin/tenants \
    -H "X-Master-Key: $MASTER_API_KEY" \
    -H "Content-Type: application/json" \
    -d '{"name": "MyCompany"}')
expect '"tenant_id": ?"tenant_[0-9a-z]+"'
expect '"api_key": ?"sk_[0-9A-Za-z]{45}"'
expect '"name": ?"MyCompany"'
expect '"created_at": ?"20[0-9-]+T[0-9:.]+Z"'
first=$(field tenant_id)

# 4. Store the API Key Securely
export CHATAPI_KEY="$(field api_key)"

# Create a Test Room
answer=$(curl -X POST http://localhost:8080/rooms \
    -H "X-API-Key: $CHATAPI_KEY" \
    -H "X-User-Id: testuser" \
    -H "Content-Type: application/json" \
    -d '{"type": "dm", "members": ["alice", "bob"]}')
expect '"unique_key": ?"dm:alice:bob"'
room=$(field room_id)
[[ $room == room_* ]] || fail "no room: $answer"

# Send a Test Message
answer=$(curl -X POST "http://localhost:8080/rooms/$room/messages" \
    -H "X-API-Key: $CHATAPI_KEY" \
    -H "X-User-Id: alice" \
    -H "Content-Type: application/json" \
    -d '{"content": "Hello from my tenant!"}')
expect '"seq": ?1,'
expect '"content": ?"Hello from my tenant!"'
expect '"sender_id": ?"alice"'

# Creating Additional Tenants
answer=$(curl -X POST http://localhost:8080/admin/tenants \
    -H "X-Master-Key: $MASTER_API_KEY" \
    -H "Content-Type: application/json" \
    -d '{"name": "AnotherCompany"}')
second=$(field tenant_id)
other_key=$(field api_key)
answer=$(curl -X POST http://localhost:8080/admin/tenants \
    -H "X-Master-Key: $MASTER_API_KEY" \
    -H "Content-Type: application/json" \
    -d '{"name": "StagingEnvironment"}')
third=$(field tenant_id)
[[ $first != "$second" && $second != "$third" ]] || fail "tenants share an id"

# Tenant Isolation: tenants cannot access each other's data
answer=$(curl "http://localhost:8080/rooms/$room/messages" -H "X-API-Key: $other_key" -H "X-User-Id: alice")
expect '"error": ?"not_found"'

# Rate Limiting: DEFAULT_RATE_LIMIT is in force
answer=$(curl --include http://localhost:8080/rooms -H "X-API-Key: $CHATAPI_KEY")
expect "ratelimit-policy: \"tenant\";q=${DEFAULT_RATE_LIMIT:-100};w=1"

# Troubleshooting: "Unauthorized" when creating a tenant, "Invalid API key" in tenant operations
answer=$(curl -X POST http://localhost:8080/admin/tenants -H "X-Master-Key: wrong" \
    -H "Content-Type: application/json" -d '{"name": "X"}')
expect 'Invalid or missing X-Master-Key header'
answer=$(curl http://localhost:8080/rooms -H "X-API-Key: $MASTER_API_KEY")
expect 'Invalid API key'

echo "the guide works"
