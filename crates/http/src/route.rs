//! The table of routes. It feeds dispatch, `405`, metric labels and the tests.

use hyper::{HeaderMap, Method};
use matchit::{Match, Router as Tree};

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody.
    Public,
    /// The operator, with `X-Master-Key`.
    Operator,
    /// The operator, or a tenant's backend about its own.
    OperatorOrBackend,
    /// A tenant's backend, with `X-API-Key`.
    Backend,
    /// A tenant's backend, or one of its users, with a token.
    Tenant,
    /// The same, and with a ticket: a handshake.
    Socket,
}

/// One route.
#[derive(Debug, Clone, Copy)]
pub struct RouteSpec {
    /// What it does.
    pub route: Route,
    /// The method; `GET` answers `HEAD` too.
    pub method: &'static str,
    /// The path; `{…}` is one segment.
    pub path: &'static str,
    /// Who may call it.
    pub access: Access,
}

macro_rules! routes {
    ($($route:ident $method:literal $path:literal $access:ident;)*) => {
        /// Everything that can be asked.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Route {
            $(#[doc = concat!("`", $method, " ", $path, "`")] $route,)*
        }

        /// All routes, in the order of [`Route`].
        pub const ROUTES: &[RouteSpec] = &[
            $(RouteSpec { route: Route::$route, method: $method, path: $path, access: Access::$access },)*
        ];
    };
}

routes! {
    Health          "GET"    "/health"                                    Public;
    Live            "GET"    "/livez"                                     Public;
    Ready           "GET"    "/readyz"                                    Public;
    Metrics         "GET"    "/metrics"                                   Public;

    TenantsList     "GET"    "/admin/tenants"                             Operator;
    TenantsCreate   "POST"   "/admin/tenants"                             Operator;
    TenantsGet      "GET"    "/admin/tenants/{tenant_id}"                 Operator;
    TenantsUpdate   "PATCH"  "/admin/tenants/{tenant_id}"                 Operator;
    TenantsDelete   "DELETE" "/admin/tenants/{tenant_id}"                 Operator;
    TenantsExport   "GET"    "/admin/tenants/{tenant_id}/export"          Operator;
    TenantsImport   "POST"   "/admin/tenants/import"                      Operator;
    DeadLettersList "GET"    "/admin/dead-letters"                        OperatorOrBackend;
    DeadLettersRetry "POST"  "/admin/dead-letters/{event_id}/retry"       OperatorOrBackend;
    AuditList       "GET"    "/admin/audit-log"                           Operator;
    UsageTotals     "GET"    "/admin/usage"                               Operator;
    UsageList       "GET"    "/admin/tenants/{tenant_id}/usage"           Operator;
    KeysList        "GET"    "/admin/tenants/{tenant_id}/keys"            Operator;
    KeysCreate      "POST"   "/admin/tenants/{tenant_id}/keys"            Operator;
    KeysRevoke      "DELETE" "/admin/tenants/{tenant_id}/keys/{key_id}"   Operator;
    KeysRotate      "POST"   "/admin/tenants/{tenant_id}/keys/{key_id}/rotate" Operator;

    TenantGet       "GET"    "/tenant"                                    Backend;
    TenantUpdate    "PATCH"  "/tenant"                                    Backend;
    WebhookTest     "POST"   "/tenant/webhook/test"                       Backend;
    OwnUsageList    "GET"    "/tenant/usage"                              Backend;
    OwnKeysList     "GET"    "/tenant/keys"                               Backend;
    OwnKeysCreate   "POST"   "/tenant/keys"                               Backend;
    OwnKeysRevoke   "DELETE" "/tenant/keys/{key_id}"                      Backend;
    OwnKeysRotate   "POST"   "/tenant/keys/{key_id}/rotate"               Backend;
    TokensCreate    "POST"   "/tokens"                                    Backend;
    TokensRevoke    "POST"   "/tokens/revoke"                             Backend;

    RoomsList       "GET"    "/rooms"                                     Tenant;
    RoomsCreate     "POST"   "/rooms"                                     Tenant;
    RoomsGet        "GET"    "/rooms/{room_id}"                           Tenant;
    RoomsUpdate     "PATCH"  "/rooms/{room_id}"                           Tenant;
    RoomsDelete     "DELETE" "/rooms/{room_id}"                           Tenant;
    RoomsJoin       "POST"   "/rooms/{room_id}/join"                      Tenant;
    RoomsLeave      "POST"   "/rooms/{room_id}/leave"                     Tenant;
    MembersList     "GET"    "/rooms/{room_id}/members"                   Tenant;
    MembersAdd      "POST"   "/rooms/{room_id}/members"                   Tenant;
    MembersUpdate   "PATCH"  "/rooms/{room_id}/members/{user_id}"         Tenant;
    MembersRemove   "DELETE" "/rooms/{room_id}/members/{user_id}"         Tenant;
    MessagesList    "GET"    "/rooms/{room_id}/messages"                  Tenant;
    MessagesSend    "POST"   "/rooms/{room_id}/messages"                  Tenant;
    MessagesGet     "GET"    "/rooms/{room_id}/messages/{message_id}"     Tenant;
    MessagesEdit    "PUT"    "/rooms/{room_id}/messages/{message_id}"     Tenant;
    MessagesDelete  "DELETE" "/rooms/{room_id}/messages/{message_id}"     Tenant;
    ChangesList     "GET"    "/rooms/{room_id}/changes"                   Tenant;
    ReceiptsList    "GET"    "/rooms/{room_id}/receipts"                  Tenant;
    Ack             "POST"   "/acks"                                      Tenant;
    PresenceGet     "GET"    "/presence"                                  Tenant;

    SocketTicket    "POST"   "/ws/token"                                  Tenant;
    Socket          "GET"    "/ws"                                        Socket;
}

impl Access {
    /// Who asks where either may: the tenant's backend if it shows its key and no other.
    pub(crate) fn shown(self, headers: &HeaderMap) -> Self {
        match self {
            Self::OperatorOrBackend if headers.contains_key("x-api-key") && !headers.contains_key("x-master-key") => {
                Self::Backend
            }
            Self::OperatorOrBackend => Self::Operator,
            other => other,
        }
    }
}

impl Route {
    /// Its line in the table.
    #[must_use]
    pub fn spec(self) -> &'static RouteSpec {
        &ROUTES[self as usize]
    }

    /// Whether an `Idempotency-Key` counts: not where the answer is a secret, which is never kept,
    /// nor where a second time is a conflict anyway and the body is too long to be compared.
    pub(crate) fn is_repeatable(self) -> bool {
        self.spec().method == "POST" && !matches!(self, Self::TokensCreate | Self::SocketTicket | Self::TenantsImport)
    }

    /// Whether it reads its body piece by piece, however long that is.
    pub(crate) fn reads_its_body(self) -> bool {
        self == Self::TenantsImport
    }

    /// The most bytes its body may have.
    pub(crate) fn body_limit(self) -> usize {
        match self {
            Self::MessagesSend | Self::MessagesEdit => 256 * 1024,
            _ => 1024 * 1024,
        }
    }
}

/// Where a path leads.
#[derive(Debug)]
pub enum Found<'a> {
    /// To a route, with what stands in its `{…}`, still percent-encoded, in order.
    Route(Route, Vec<&'a str>),
    /// To a path that does not know the method, but these.
    OtherMethods(Vec<&'static str>),
    /// Nowhere.
    Nothing,
}

/// The tree of paths.
#[derive(Debug, Clone)]
pub struct Router {
    tree: Tree<Vec<Route>>,
}

impl Default for Router {
    fn default() -> Self {
        Self::new()
    }
}

impl Router {
    /// The tree of [`ROUTES`].
    #[must_use]
    pub fn new() -> Self {
        let mut tree = Tree::new();
        for spec in ROUTES {
            let same_path = ROUTES.iter().filter(|other| other.path == spec.path).map(|other| other.route);
            // The second route of a path finds the path taken, by the same list.
            let _ = tree.insert(spec.path, same_path.collect());
        }
        Self { tree }
    }

    /// Where this method and path lead.
    #[must_use]
    pub fn find<'a>(&self, method: &Method, path: &'a str) -> Found<'a> {
        let Ok(Match { value: routes, params }) = self.tree.at(path) else { return Found::Nothing };
        let wanted = if method == Method::HEAD { "GET" } else { method.as_str() };
        match routes.iter().find(|route| route.spec().method == wanted) {
            Some(route) => Found::Route(*route, params.iter().map(|(_, value)| value).collect()),
            None => Found::OtherMethods(routes.iter().map(|route| route.spec().method).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_found_by_its_own_method_and_path() {
        let router = Router::new();
        for (at, spec) in ROUTES.iter().enumerate() {
            assert_eq!(spec.route as usize, at);
            let method = spec.method.parse().expect("a method");
            assert!(
                matches!(router.find(&method, spec.path), Found::Route(route, _) if route == spec.route),
                "{spec:?}"
            );
        }
    }

    #[test]
    fn head_is_get_and_other_methods_are_named() {
        let router = Router::new();

        assert!(matches!(router.find(&Method::HEAD, "/rooms"), Found::Route(Route::RoomsList, _)));
        let Found::OtherMethods(allowed) = router.find(&Method::PUT, "/rooms") else { panic!("a path of ours") };
        assert_eq!(allowed, ["GET", "POST"]);
        for nowhere in ["/", "/rooms/", "/Rooms", "/rooms/a/b/c/d"] {
            assert!(matches!(router.find(&Method::GET, nowhere), Found::Nothing), "{nowhere}");
        }
    }
}
